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

/// Ranges are no larger than this, and pages are far smaller. An answer is in memory as a whole.
pub const LARGEST_ANSWER: usize = 256 << 20;
/// What an error says of a larger one.
pub const TOO_LARGE: &str = "the answer is larger than";

/// Gives the crate our client, whatever options it has in mind.
#[derive(Debug, Clone)]
pub struct Transport {
    client: HttpClient,
    largest: usize,
}

impl Transport {
    /// # Errors
    /// Those of [`HttpClient::new`].
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        Ok(Self { client: HttpClient::new(settings)?, largest: LARGEST_ANSWER })
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
        let request = http::Request::from_parts(head, content);
        let answer = self.client.send_whole(request, self.largest + 1).await.map_err(failed)?;
        if answer.body().len() > self.largest {
            let reason = format!("{TOO_LARGE} {} bytes", self.largest);
            return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(reason)));
        }
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

/// A server that gives every request the same answer.
#[cfg(test)]
pub(super) async fn always(answer: Vec<u8>) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && connection.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            // A client that has seen enough hangs up.
            let _ = connection.write_all(&answer).await;
        }
    });
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_an_error() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        let server = always([&head[..], &[7; 1000]].concat()).await;
        for (largest, whole) in [(999, false), (1000, true)] {
            let client = HttpClient::new(Settings::default()).expect("a client");
            let mut request = HttpRequest::new(Bytes::new().into());
            *request.uri_mut() = server.parse().expect("an address");
            match (Transport { client, largest }).call(request).await {
                Ok(_) => assert!(whole),
                Err(error) => {
                    assert!(!whole && error.kind() == HttpErrorKind::Unknown, "{error}");
                    let reason = std::error::Error::source(&error).expect("a reason").to_string();
                    assert_eq!(reason, format!("{TOO_LARGE} 999 bytes"));
                }
            }
        }
    }

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
