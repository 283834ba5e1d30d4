//! Azure and Google Cloud.

use super::{ConfigError, cut, patience, s3::group, trimmed};
use crate::{
    model::config::StorageConf,
    storage::{
        cloud::{AzureAccess, AzureSettings, GcsAccess, GcsSettings},
        http,
        parts::Cut,
        patience::Patience,
        s3::{Encryption, Keys, Settings, Signature},
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};

/// The most blocks of one Azure blob.
const MOST_BLOCKS: u32 = 50_000;

/// Reads settings of type `azure` for the node (`host:port`). Without a key or SAS, the identity from the environment
/// is used.
///
/// # Errors
/// A value is missing or not valid.
pub fn azure(conf: &StorageConf, node: &str) -> Result<AzureSettings, ConfigError> {
    const PART: usize = 10 << 20;
    let fields = group(conf.azure.as_ref(), "storage.azure")?;
    let credentials = fields.group("credentials");
    let access = match (credentials.text("key"), credentials.text("sas")) {
        (Some(key), None) => {
            BASE64_STANDARD.decode(key).map_err(|error| credentials.wrong("key", format!("is not base64: {error}")))?;
            AzureAccess::Key(key.to_owned())
        }
        (None, Some(sas)) => AzureAccess::Sas(sas.to_owned()),
        (None, None) => AzureAccess::Environment,
        (Some(_), Some(_)) => return Err(credentials.wrong("sas", "can't be used together with key")),
    };
    let retryer = fields.group("retryer");
    Ok(AzureSettings {
        account: fields.required("account")?.to_owned(),
        container: fields.required("container")?.trim_matches('/').to_owned(),
        prefix: trimmed(fields.text("prefix")),
        endpoint: fields.for_node("endpointUrlMap", node, "endpointUrl").map(str::to_owned),
        access,
        cut: Cut { part: PART, most: MOST_BLOCKS, in_flight: 4 * PART },
        patience: patience(
            retryer.whole("numMaxRetries").filter(|it| *it > 0),
            retryer.duration("minRetryDelay"),
            retryer.duration("maxRetryDelay"),
        ),
        http: http::Settings::default(),
    })
}

/// The interface through which Google's store is used.
#[derive(Debug)]
pub enum Gcs {
    Own(Box<GcsSettings>),
    /// Its S3-compatible interface, to which HMAC keys belong.
    ByS3(Box<Settings>),
}

/// Reads settings of type `gcs`.
///
/// # Errors
/// A value is missing or not valid.
pub fn gcs(conf: &StorageConf) -> Result<Gcs, ConfigError> {
    let fields = group(conf.gcs.as_ref(), "storage.gcs")?;
    let bucket = fields.required("bucket")?.trim_matches('/').to_owned();
    let prefix = trimmed(fields.text("prefix"));
    let credentials = fields.group("credentials");
    let retryer = fields.group("retryer");
    let patience = patience(
        retryer.whole("maxAttempts").filter(|it| *it > 0).map(|attempts| attempts - 1),
        retryer.duration("backoffInitial"),
        retryer.duration("backoffMax"),
    );
    let patience = Patience {
        growth: retryer.float("backoffMultiplier").filter(|it| *it >= 1.0).unwrap_or(patience.growth),
        part: retryer.duration("chunkRetryDeadline"),
        ..patience
    };
    let cut = cut(&fields, "chunkSize", 5 << 20, 10_000)?;
    let http = http::Settings::default();
    if let (Some(id), Some(secret)) = (credentials.text("hmacAccessKey"), credentials.text("hmacSecret")) {
        return Ok(Gcs::ByS3(Box::new(Settings {
            kind: "gcs",
            region: "auto".to_owned(),
            endpoint: "https://storage.googleapis.com".to_owned(),
            path_style: true,
            bucket,
            prefix,
            keys: Some(Keys { id: id.to_owned(), secret: secret.to_owned(), token: None }),
            signature: Signature::Current,
            encryption: Encryption::None,
            storage_class: None,
            cut,
            patience,
            http,
        })));
    }
    let identity = credentials.flag("workloadIdentity").unwrap_or(false);
    let access = match (identity, credentials.text("clientEmail"), credentials.text("privateKey")) {
        (false, Some(email), Some(key)) => GcsAccess::ServiceAccount { email: email.to_owned(), key: key.to_owned() },
        (true, ..) | (false, None, None) => GcsAccess::Environment,
        (false, Some(_), None) => return Err(credentials.wrong("privateKey", "must be given with clientEmail")),
        (false, None, Some(_)) => return Err(credentials.wrong("clientEmail", "must be given with privateKey")),
    };
    Ok(Gcs::Own(Box::new(GcsSettings { bucket, prefix, access, cut, patience, http })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use std::time::Duration;

    #[test]
    fn azure_has_three_ways_in() {
        let of = |credentials: bson::Document| {
            let azure = doc! { "account": "a", "container": "c", "prefix": "/p/", "credentials": credentials,
            "endpointUrlMap": { "h:1": "http://x" } };
            let conf = StorageConf { kind: "azure".into(), azure: Some(azure), ..StorageConf::default() };
            super::azure(&conf, "h:1")
        };
        let it = of(doc! { "key": "a2V5" }).expect("good");
        assert_eq!(
            (it.access, it.prefix.as_str(), it.endpoint.as_deref()),
            (AzureAccess::Key("a2V5".into()), "p", Some("http://x"))
        );
        assert_eq!(of(doc! { "sas": "sv=1&sig=2" }).expect("good").access, AzureAccess::Sas("sv=1&sig=2".into()));
        assert_eq!(of(doc! {}).expect("good").access, AzureAccess::Environment);
        assert!(of(doc! { "key": "not base64!" }).expect_err("no key").to_string().contains("credentials.key"));
        assert!(of(doc! { "key": "a2V5", "sas": "x" }).is_err());
        assert!(super::azure(&StorageConf { kind: "azure".into(), ..StorageConf::default() }, "").is_err());
    }

    #[test]
    fn google_is_asked_again_as_the_settings_say() {
        let of = |retryer: bson::Document| {
            let gcs = doc! { "bucket": "b", "retryer": retryer };
            match super::gcs(&StorageConf { kind: "gcs".into(), gcs: Some(gcs), ..StorageConf::default() }) {
                Ok(Gcs::Own(settings)) => settings.patience,
                other => panic!("{other:?}"),
            }
        };
        let (second, deadline) = (Duration::from_secs(1), Duration::from_secs(32));
        let it = of(doc! {
            "maxAttempts": 5, "backoffInitial": 1_000_000_000_i64, "backoffMax": 30_000_000_000_i64,
            "backoffMultiplier": 3.5, "chunkRetryDeadline": 32_000_000_000_i64,
        });
        assert_eq!((it.attempts, it.first_pause, it.longest_pause), (5, second, 30 * second));
        assert_eq!((it.growth, it.for_part().overall), (3.5, deadline));
        assert_eq!((it.overall, it.for_part().attempts), (Duration::from_secs(3600), 5));
        let it = of(doc! { "backoffMultiplier": 0.0, "chunkRetryDeadline": 0 });
        assert_eq!((it, it.for_part()), (Patience::default(), Patience::default()));
    }

    #[test]
    fn google_has_three_ways_in() {
        let of = |credentials: bson::Document| {
            let gcs = doc! { "bucket": "b", "credentials": credentials };
            super::gcs(&StorageConf { kind: "gcs".into(), gcs: Some(gcs), ..StorageConf::default() })
        };
        let own = |found: Result<Gcs, ConfigError>| match found.expect("good") {
            Gcs::Own(settings) => settings.access,
            Gcs::ByS3(_) => panic!("by S3"),
        };
        let account = GcsAccess::ServiceAccount { email: "e".into(), key: "k".into() };
        assert_eq!(own(of(doc! { "clientEmail": "e", "privateKey": "k" })), account);
        assert_eq!(own(of(doc! { "workloadIdentity": true })), GcsAccess::Environment);
        assert!(matches!(of(doc! { "hmacAccessKey": "a", "hmacSecret": "b" }), Ok(Gcs::ByS3(_))));
        assert!(of(doc! { "clientEmail": "e" }).expect_err("half").to_string().contains("privateKey"));
    }
}
