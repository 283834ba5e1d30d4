//! Signatures of version 2, for stores that know no others (`signature-ver: V2` of the type minio).
//!
//! They cover the method, the resource and the headers of the store, not the content, so a request with content carries its
//! MD5, which they cover and the store compares.

use base64::{Engine, prelude::BASE64_STANDARD};
use md5::{Digest, Md5};
use ring::hmac;
use rusoto_core::{credential::AwsCredentials, signature::SignedRequest};

/// Parameters that are part of the resource; the others only say how the answer shall look.
const SIGNED: &[&str] = &["delete", "location", "partNumber", "uploadId", "uploads", "versionId"];

/// Signs a request that has its address. `bucket`: if it is in the host name.
pub fn sign(request: &mut SignedRequest, content: &[u8], keys: &AwsCredentials, bucket: Option<&str>) {
    sign_at(request, content, keys, bucket, jiff::Timestamp::now());
}

fn sign_at(
    request: &mut SignedRequest,
    content: &[u8],
    keys: &AwsCredentials,
    bucket: Option<&str>,
    now: jiff::Timestamp,
) {
    request.complement();
    let set = |request: &mut SignedRequest, name: &str, value: &str| {
        request.remove_header(name);
        request.add_header(name, value);
    };
    set(request, "x-amz-date", &now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    if let Some(token) = keys.token() {
        set(request, "x-amz-security-token", token);
    }
    if !content.is_empty() {
        set(request, "content-md5", &BASE64_STANDARD.encode(Md5::digest(content)));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, keys.aws_secret_access_key().as_bytes());
    let tag = hmac::sign(&key, summary(request, bucket).as_bytes());
    let value = format!("AWS {}:{}", keys.aws_access_key_id(), BASE64_STANDARD.encode(tag));
    set(request, "authorization", &value);
}

/// What is signed.
fn summary(request: &SignedRequest, bucket: Option<&str>) -> String {
    let header = |name: &str| {
        let values = request.headers().get(name).into_iter().flatten();
        values.map(|value| String::from_utf8_lossy(value).trim().to_owned()).collect::<Vec<_>>().join(",")
    };
    // The date is among the store's own headers, so its line is empty.
    let mut text = format!("{}\n{}\n{}\n\n", request.method(), header("content-md5"), header("content-type"));
    for name in request.headers().keys().filter(|name| name.starts_with("x-amz-")) {
        text.push_str(&format!("{name}:{}\n", header(name)));
    }
    if let Some(bucket) = bucket {
        text.push_str(&format!("/{bucket}"));
    }
    text.push_str(request.canonical_uri());
    let signed = request.params.iter().filter(|(name, _)| SIGNED.contains(&name.as_str()));
    let signed: Vec<String> = signed
        .map(|(name, value)| match value.as_deref() {
            None | Some("") => name.clone(),
            Some(value) => format!("{name}={value}"),
        })
        .collect();
    if !signed.is_empty() {
        text.push_str(&format!("?{}", signed.join("&")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusoto_core::Region;

    fn request(method: &str, path: &str) -> SignedRequest {
        let region = Region::Custom { name: "r".into(), endpoint: "h:1".into() };
        let mut request = SignedRequest::new(method, "s3", &region, path);
        request.set_hostname(Some("h:1".into()));
        request
    }

    #[test]
    fn what_is_signed() {
        let keys = AwsCredentials::new("id", "secret", Some("token".into()), None);
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut part = request("PUT", "/backups/a b/c");
        part.add_param("uploadId", "x/y");
        part.add_param("partNumber", "7");
        part.add_param("x-id", "UploadPart");
        sign_at(&mut part, b"content", &keys, None, now);
        let date = "Thu, 01 Jan 1970 00:00:00 GMT";
        assert_eq!(
            summary(&part, None),
            format!(
                "PUT\nmgNkuembtIDdJeHwKEyFVQ==\napplication/octet-stream\n\nx-amz-date:{date}\nx-amz-security-token:token\n\
                 /backups/a%20b/c?partNumber=7&uploadId=x/y"
            )
        );
        let mut begin = request("POST", "/c");
        begin.params.insert("uploads".into(), None);
        sign_at(&mut begin, b"", &AwsCredentials::new("id", "secret", None, None), Some("backups"), now);
        let text = format!("POST\n\napplication/octet-stream\n\nx-amz-date:{date}\n/backups/c?uploads");
        assert_eq!(summary(&begin, Some("backups")), text);
        let signed = String::from_utf8_lossy(&begin.headers()["authorization"][0]).into_owned();
        assert!(signed.starts_with("AWS id:") && signed.ends_with('=') && signed.len() == 35, "{signed}");
    }
}
