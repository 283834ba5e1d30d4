//! Our HTTP client under the `object_store` crate, and the checksums that it doesn't look at.
//!
//! Azure and Google tell the checksum of what they stored in the answer to each upload. It is compared with that of what
//! we sent: a part that was changed on its way is sent again.

use crate::storage::http::{HttpClient, HttpError as Failure, Settings};
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method};
use md5::{Digest, Md5};
use object_store::{
    ClientOptions,
    client::{
        HttpClient as Client, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    },
};

/// More than any range or page that is asked for.
const LARGEST_ANSWER: usize = 256 << 20;

/// Gives the crate our client, whatever options it has in mind.
#[derive(Debug, Clone)]
pub struct Transport(HttpClient);

impl Transport {
    /// # Errors
    /// Those of [`HttpClient::new`].
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        HttpClient::new(settings).map(Self)
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<Client> {
        Ok(Client::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let content = match body.as_bytes() {
            Some(content) => content.clone(),
            None => http_body_util::BodyExt::collect(body)
                .await
                .map_err(|error| HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(error.to_string())))?
                .to_bytes(),
        };
        let upload = (head.method == Method::PUT && !content.is_empty()).then(|| content.clone());
        let answer =
            self.0.send_whole(http::Request::from_parts(head, content), LARGEST_ANSWER).await.map_err(failed)?;
        if let Some(content) = upload.filter(|_| answer.status().is_success()) {
            let headers = answer.headers().clone();
            let same = tokio::task::spawn_blocking(move || arrived(&content, &headers)).await.unwrap_or(Ok(()));
            same.map_err(|reason| HttpError::new(HttpErrorKind::Request, std::io::Error::other(reason)))?;
        }
        Ok(answer.map(HttpResponseBody::from))
    }
}

fn failed(error: Failure) -> HttpError {
    let kind = match error {
        Failure::Connect { .. } => HttpErrorKind::Connect,
        Failure::Stalled { .. } => HttpErrorKind::Timeout,
        Failure::Broken { .. } => HttpErrorKind::Interrupted,
        Failure::Untrusted { .. } | Failure::Invalid(_) => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

/// Compares the checksum in the store's answer, if it has one: `Content-MD5` (Azure), `x-goog-hash` (Google).
fn arrived(content: &Bytes, headers: &HeaderMap) -> Result<(), String> {
    let of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(stored) = of("content-md5") {
        let sent = BASE64_STANDARD.encode(Md5::digest(content));
        if sent != stored {
            return Err(format!("the store has something else than what was sent (MD5 {stored} instead of {sent})"));
        }
    }
    let hashes = headers.get_all("x-goog-hash").into_iter().filter_map(|value| value.to_str().ok());
    for stored in hashes.flat_map(|line| line.split(',')).filter_map(|hash| hash.trim().strip_prefix("crc32c=")) {
        let sent = BASE64_STANDARD.encode(crc32c::crc32c(content).to_be_bytes());
        if sent != stored {
            return Err(format!(
                "the store has something else than what was sent (CRC-32C {stored} instead of {sent})"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_store_are_compared() {
        let content = Bytes::from_static(b"123456789");
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            headers
        };
        assert!(arrived(&content, &HeaderMap::new()).is_ok());
        assert!(arrived(&content, &with("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")).is_ok());
        assert!(arrived(&content, &with("content-md5", "AAAAlDI7RTiF9RgfG2JNCw==")).is_err());
        assert!(arrived(&content, &with("x-goog-hash", "md5=x, crc32c=4waSgw==")).is_ok());
        assert!(arrived(&content, &with("x-goog-hash", "crc32c=AAAAAA==")).is_err());
    }
}
