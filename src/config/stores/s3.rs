//! S3, and the storage types whose stores use its protocol: minio, oss, oci.

use super::{ConfigError, Fields, cut, patience, trimmed};
use crate::{
    model::config::StorageConf,
    storage::{
        http,
        s3::{CustomerKey, Encryption, Keys, Settings, Signature},
    },
};
use bson::Document;

/// The smallest part of an upload, except the last one.
const SMALLEST_PART: i64 = 5 << 20;
const MOST_PARTS: u32 = 10_000;

pub(super) fn group<'a>(doc: Option<&'a Document>, at: &str) -> Result<Fields<'a>, ConfigError> {
    match doc {
        Some(doc) => Ok(Fields::new(at, doc)),
        None => Err(ConfigError::setting(at, "must be given for this storage type")),
    }
}

fn keys(credentials: &Fields<'_>, id: &str, secret: &str, token: &str) -> Result<Option<Keys>, ConfigError> {
    match (credentials.text(id), credentials.text(secret)) {
        (None, None) => Ok(None),
        (Some(key), Some(text)) => Ok(Some(Keys {
            id: key.to_owned(),
            secret: text.to_owned(),
            token: credentials.text(token).map(str::to_owned),
        })),
        (None, Some(_)) => Err(credentials.wrong(id, "must be given with its secret")),
        (Some(_), None) => Err(credentials.wrong(secret, "must be given with its key")),
    }
}

/// Returns an address with a scheme. The default is https.
fn address(text: &str) -> String {
    let text = text.trim_end_matches('/');
    if text.contains("://") { text.to_owned() } else { format!("https://{text}") }
}

fn most_parts(fields: &Fields<'_>) -> Result<u32, ConfigError> {
    const KEY: &str = "maxUploadParts";
    match fields.whole(KEY) {
        None | Some(0) => Ok(MOST_PARTS),
        Some(number) => {
            u32::try_from(number).map_err(|_| fields.wrong(KEY, format!("'{number}' is not a number of parts above 0")))
        }
    }
}

/// Returns the address of AWS's S3 in a region.
fn aws(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://s3.{region}.{domain}")
}

/// Reads settings of type `s3` for the node (`host:port`).
///
/// # Errors
/// A value is missing or not valid.
pub fn s3(conf: &StorageConf, node: &str) -> Result<Settings, ConfigError> {
    let fields = group(conf.s3.as_ref(), "storage.s3")?;
    let region = fields.text("region").unwrap_or("us-east-1").to_owned();
    let retryer = fields.group("retryer");
    Ok(Settings {
        kind: "s3",
        endpoint: fields.for_node("endpointUrlMap", node, "endpointUrl").map_or_else(|| aws(&region), address),
        region,
        path_style: fields.flag("forcePathStyle").unwrap_or(true),
        bucket: fields.required("bucket")?.trim_matches('/').to_owned(),
        prefix: trimmed(fields.text("prefix")),
        keys: keys(&fields.group("credentials"), "access-key-id", "secret-access-key", "session-token")?,
        signature: Signature::Current,
        encryption: encryption(&fields.group("serverSideEncryption"))?,
        storage_class: fields.text("storageClass").filter(|class| *class != "STANDARD").map(str::to_owned),
        cut: cut(&fields, "uploadPartSize", SMALLEST_PART, most_parts(&fields)?)?,
        patience: patience(
            retryer.whole("numMaxRetries").filter(|it| *it > 0),
            retryer.duration("minRetryDelay"),
            retryer.duration("maxRetryDelay"),
        ),
        http: http::Settings {
            skip_tls_verify: fields.flag("insecureSkipTLSVerify").unwrap_or(false),
            trace: fields.text("debugLogLevels").is_some(),
            ..http::Settings::default()
        },
    })
}

fn encryption(fields: &Fields<'_>) -> Result<Encryption, ConfigError> {
    let algorithm = fields.text("sseAlgorithm").map(str::to_owned);
    match (algorithm, fields.text("kmsKeyID"), fields.text("sseCustomerKey")) {
        (None, None, None) => Ok(Encryption::None),
        (Some(algorithm), Some(key), None) => Ok(Encryption::Kms { algorithm, key: key.to_owned() }),
        (Some(algorithm), None, None) => Ok(Encryption::StoreKeys { algorithm }),
        (None, None, Some(key)) => {
            let algorithm = fields.text("sseCustomerAlgorithm").unwrap_or("AES256");
            let key = CustomerKey::new(algorithm, key).map_err(|reason| fields.wrong("sseCustomerKey", reason))?;
            Ok(Encryption::Customer(key))
        }
        (None, Some(_), _) => Err(fields.wrong("sseAlgorithm", "must be given with kmsKeyID, for example aws:kms")),
        (Some(_), _, Some(_)) => Err(fields.wrong("sseCustomerKey", "can't be used together with sseAlgorithm")),
    }
}

/// Reads settings of type `minio`: the same protocol with other names.
///
/// # Errors
/// A value is missing or not valid.
pub fn minio(conf: &StorageConf, node: &str) -> Result<Settings, ConfigError> {
    let fields = group(conf.minio.as_ref(), "storage.minio")?;
    let endpoint = fields.for_node("endpointMap", node, "endpoint");
    let endpoint = endpoint.ok_or_else(|| fields.wrong("endpoint", "must be given, as host:port"))?;
    let scheme = if fields.flag("secure").unwrap_or(false) { "https" } else { "http" };
    let credentials = fields.group("credentials");
    let signature = match credentials.text("signature-ver") {
        None => Signature::Current,
        Some(version) if version.eq_ignore_ascii_case("v4") => Signature::Current,
        Some(version) if version.eq_ignore_ascii_case("v2") => Signature::Old,
        Some(other) => return Err(credentials.wrong("signature-ver", format!("'{other}' is neither V4 nor V2"))),
    };
    let retries = fields.group("retryer").whole("numMaxRetries").filter(|it| *it > 0);
    Ok(Settings {
        kind: "minio",
        region: fields.text("region").unwrap_or("us-east-1").to_owned(),
        endpoint: if endpoint.contains("://") { address(endpoint) } else { format!("{scheme}://{endpoint}") },
        path_style: fields.flag("forcePathStyle").unwrap_or(true),
        bucket: fields.required("bucket")?.trim_matches('/').to_owned(),
        prefix: trimmed(fields.text("prefix")),
        keys: keys(&credentials, "access-key-id", "secret-access-key", "session-token")?,
        signature,
        encryption: Encryption::None,
        storage_class: None,
        cut: cut(&fields, "partSize", SMALLEST_PART, MOST_PARTS)?,
        patience: patience(retries, None, None),
        http: http::Settings {
            skip_tls_verify: fields.flag("insecureSkipTLSVerify").unwrap_or(false),
            trace: fields.flag("debugTrace").unwrap_or(false),
            ..http::Settings::default()
        },
    })
}

/// Reads settings of type `oss`: Alibaba Cloud through its S3-compatible endpoint, which requires the bucket in the
/// host name.
///
/// # Errors
/// A value is missing or not valid, or a role has to be assumed, which this build can't do.
pub fn oss(conf: &StorageConf) -> Result<Settings, ConfigError> {
    let fields = group(conf.oss.as_ref(), "storage.oss")?;
    let region = fields.required("region")?.trim_start_matches("oss-").to_owned();
    let credentials = fields.group("credentials");
    if credentials.text("roleArn").is_some() {
        let reason =
            "roles can't be assumed by this build; give accessKeyId, accessKeySecret and, if needed, securityToken";
        return Err(credentials.wrong("roleArn", reason));
    }
    let keys = keys(&credentials, "accessKeyId", "accessKeySecret", "securityToken")?;
    let sealing = fields.group("serverSideEncryption");
    // The interface can't request another cipher for the data. The cipher that is used anyway may be set.
    if let Some(cipher) = sealing.text("encryptionAlgorithm").filter(|it| *it != "AES256") {
        let reason =
            format!("'{cipher}' can't be asked for by the S3-compatible interface; remove it and set it on the bucket");
        return Err(sealing.wrong("encryptionAlgorithm", reason));
    }
    let encryption = match (sealing.text("encryptionMethod"), sealing.text("encryptionKeyId")) {
        (None, _) => Encryption::None,
        (Some(algorithm), Some(key)) => Encryption::Kms { algorithm: algorithm.to_owned(), key: key.to_owned() },
        (Some(algorithm), None) => Encryption::StoreKeys { algorithm: algorithm.to_owned() },
    };
    let endpoint = address(fields.text("endpointUrl").unwrap_or(&format!("oss-{region}.aliyuncs.com")));
    let retryer = fields.group("retryer");
    Ok(Settings {
        kind: "oss",
        // For each native endpoint `oss-REGION…` there is an S3-compatible one with this name.
        endpoint: endpoint.replacen("://oss-", "://s3.oss-", 1),
        region: format!("oss-{region}"),
        path_style: false,
        bucket: fields.required("bucket")?.trim_matches('/').to_owned(),
        prefix: trimmed(fields.text("prefix")),
        keys: Some(keys.ok_or_else(|| credentials.wrong("accessKeyId", "must be given"))?),
        signature: Signature::Current,
        encryption,
        storage_class: None,
        cut: cut(&fields, "uploadPartSize", 100 << 10, most_parts(&fields)?)?,
        patience: patience(
            retryer.whole("maxAttempts").filter(|it| *it > 0).map(|attempts| attempts - 1),
            retryer.duration("baseDelay"),
            retryer.duration("maxBackoff"),
        ),
        http: http::Settings {
            connect_timeout: fields.duration("connectTimeout").unwrap_or(std::time::Duration::from_secs(5)),
            ..http::Settings::default()
        },
    })
}

/// Reads settings of type `oci`: Oracle Cloud through its S3-compatible endpoint. This endpoint accepts customer secret
/// keys and not the API keys of the native interface. So the keys come from the agent's environment or from
/// `credentials.accessKeyId` and `credentials.secretAccessKey`, which we add to the original's settings.
///
/// # Errors
/// A value is missing or not valid, or the credentials are for the native interface.
pub fn oci(conf: &StorageConf) -> Result<Settings, ConfigError> {
    let fields = group(conf.oci.as_ref(), "storage.oci")?;
    let (region, namespace) = (fields.required("region")?, fields.required("namespace")?);
    let credentials = fields.group("credentials");
    if let Some(kind) = credentials.text("type") {
        let reason = format!(
            "'{kind}' belongs to Oracle's native interface, which this build does not speak; remove it, make a customer secret \
             key and give it as accessKeyId and secretAccessKey"
        );
        return Err(credentials.wrong("type", reason));
    }
    let sealing = fields.group("serverSideEncryption");
    if sealing.text("kmsKeyID").is_some() {
        return Err(
            sealing.wrong("kmsKeyID", "can't be given by the S3-compatible interface; set the key on the bucket")
        );
    }
    let retryer = fields.group("retryer");
    let mut cut = cut(&fields, "uploadPartSize", SMALLEST_PART, MOST_PARTS)?;
    if let Some(parts) = fields.whole("uploadConcurrency").and_then(|it| usize::try_from(it).ok()).filter(|it| *it > 0)
    {
        cut.in_flight = cut.part.saturating_mul(parts);
    }
    Ok(Settings {
        kind: "oci",
        endpoint: format!("https://{namespace}.compat.objectstorage.{region}.oraclecloud.com"),
        region: region.to_owned(),
        path_style: true,
        bucket: fields.required("bucket")?.trim_matches('/').to_owned(),
        prefix: trimmed(fields.text("prefix")),
        keys: keys(&credentials, "accessKeyId", "secretAccessKey", "")?,
        signature: Signature::Current,
        encryption: encryption(&sealing)?,
        storage_class: None,
        cut,
        patience: patience(
            retryer.whole("maxAttempts").filter(|it| *it > 0).map(|attempts| attempts - 1),
            None,
            retryer.duration("maxBackoff"),
        ),
        http: http::Settings::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use std::time::Duration;

    fn of(kind: &str, doc: Document) -> StorageConf {
        let mut conf = StorageConf { kind: kind.to_owned(), ..StorageConf::default() };
        match kind {
            "s3" => conf.s3 = Some(doc),
            "minio" => conf.minio = Some(doc),
            "oci" => conf.oci = Some(doc),
            _ => conf.oss = Some(doc),
        }
        conf
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let it = s3(&of("s3", doc! { "bucket": "b/", "prefix": "/p/q/" }), "h:1").expect("good");
        assert_eq!((it.region.as_str(), it.endpoint.as_str()), ("us-east-1", "https://s3.us-east-1.amazonaws.com"));
        assert_eq!((it.bucket.as_str(), it.prefix.as_str(), it.path_style), ("b", "p/q", true));
        assert_eq!((it.cut.part, it.cut.most, it.keys), (10 << 20, 10_000, None));
        assert_eq!((it.storage_class, it.encryption), (None, Encryption::None));
        let it = minio(&of("minio", doc! { "endpoint": "h:9000", "bucket": "b" }), "h:1").expect("good");
        assert_eq!(it.endpoint, "http://h:9000");
        let keys = doc! { "accessKeyId": "i", "accessKeySecret": "s" };
        let it = oss(&of("oss", doc! { "region": "cn-x", "bucket": "b", "credentials": keys })).expect("good");
        assert_eq!((it.endpoint.as_str(), it.path_style), ("https://s3.oss-cn-x.aliyuncs.com", false));
    }

    #[test]
    fn settings_are_taken() {
        let conf = of(
            "s3",
            doc! {
                "bucket": "b", "region": "eu-1", "endpointUrl": "http://a:1/", "endpointUrlMap": { "h:1": "http://b:2" },
                "forcePathStyle": false, "storageClass": "GLACIER_IR", "uploadPartSize": 5 << 20, "maxUploadParts": 500,
                "credentials": { "access-key-id": "i", "secret-access-key": "s", "session-token": "t" },
                "serverSideEncryption": { "sseAlgorithm": "aws:kms", "kmsKeyID": "k" },
                "insecureSkipTLSVerify": true,
                "retryer": { "numMaxRetries": 7, "minRetryDelay": 1_000_000_i64, "maxRetryDelay": 2_000_000_i64 },
            },
        );
        let it = s3(&conf, "h:1").expect("good");
        assert_eq!((it.endpoint.as_str(), it.path_style, it.http.skip_tls_verify), ("http://b:2", false, true));
        assert_eq!(s3(&conf, "h:2").expect("good").endpoint, "http://a:1");
        assert_eq!((it.cut.part, it.cut.most, it.storage_class.as_deref()), (5 << 20, 500, Some("GLACIER_IR")));
        assert_eq!(it.keys, Some(Keys { id: "i".into(), secret: "s".into(), token: Some("t".into()) }));
        assert_eq!(it.encryption, Encryption::Kms { algorithm: "aws:kms".into(), key: "k".into() });
        assert_eq!((it.patience.attempts, it.patience.longest_pause), (8, Duration::from_millis(2)));
    }

    #[test]
    fn impossible_settings_are_refused_by_their_key() {
        for (doc, key) in [
            (doc! {}, "storage.s3.bucket"),
            (doc! { "bucket": "b", "credentials": { "access-key-id": "i" } }, "credentials.secret-access-key"),
            (doc! { "bucket": "b", "credentials": { "secret-access-key": "i" } }, "credentials.access-key-id"),
            (doc! { "bucket": "b", "uploadPartSize": 1000 }, "uploadPartSize"),
            (doc! { "bucket": "b", "maxUploadParts": -1 }, "maxUploadParts"),
            (doc! { "bucket": "b", "serverSideEncryption": { "kmsKeyID": "k" } }, "sseAlgorithm"),
            (doc! { "bucket": "b", "serverSideEncryption": { "sseCustomerKey": "k" } }, "sseCustomerKey"),
        ] {
            let error = s3(&of("s3", doc), "").expect_err(key).to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
        assert!(minio(&of("minio", doc! { "bucket": "b" }), "").is_err());
        for (version, signature) in [("V4", Some(Signature::Current)), ("v2", Some(Signature::Old)), ("V3", None)] {
            let doc = doc! { "bucket": "b", "endpoint": "h", "credentials": { "signature-ver": version } };
            match (minio(&of("minio", doc), ""), signature) {
                (Ok(it), Some(signature)) => assert_eq!(it.signature, signature),
                (Err(error), None) => assert!(error.to_string().contains("signature-ver"), "{error}"),
                other => panic!("{version}: {other:?}"),
            }
        }
        let native =
            doc! { "region": "r", "namespace": "n", "bucket": "b", "credentials": { "type": "userPrincipal" } };
        assert!(oci(&of("oci", native)).expect_err("native").to_string().contains("customer secret key"));
        let good = doc! { "region": "r", "namespace": "n", "bucket": "b" };
        let it = oci(&of("oci", good)).expect("good");
        assert_eq!(it.endpoint, "https://n.compat.objectstorage.r.oraclecloud.com");
        assert_eq!(it.cut.in_flight, 40 << 20);
        let more =
            doc! { "region": "r", "namespace": "n", "bucket": "b", "uploadPartSize": 20 << 20, "uploadConcurrency": 7 };
        assert_eq!(oci(&of("oci", more)).expect("good").cut.in_flight, 140 << 20);
        let vault =
            doc! { "region": "r", "namespace": "n", "bucket": "b", "serverSideEncryption": { "kmsKeyID": "k" } };
        assert!(oci(&of("oci", vault)).expect_err("a vault").to_string().contains("set the key on the bucket"));
        let sealed = |cipher: &str| {
            let keys = doc! { "accessKeyId": "i", "accessKeySecret": "s" };
            let sealing = doc! { "encryptionMethod": "KMS", "encryptionAlgorithm": cipher };
            let conf = doc! { "region": "r", "bucket": "b", "credentials": keys, "serverSideEncryption": sealing };
            oss(&of("oss", conf))
        };
        assert_eq!(sealed("AES256").expect("good").encryption, Encryption::StoreKeys { algorithm: "KMS".into() });
        assert!(sealed("SM4").expect_err("a cipher").to_string().contains("encryptionAlgorithm: 'SM4'"));
        let role = doc! { "bucket": "b", "region": "r", "credentials": { "roleArn": "acs:…" } };
        assert!(oss(&of("oss", role)).expect_err("a role").to_string().contains("roleArn"));
    }
}
