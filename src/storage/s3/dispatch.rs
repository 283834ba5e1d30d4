//! Sends what rusoto builds: addressing, signature and transport are ours.
//!
//! rusoto_s3 gives a request without signature, addressed by path. Here it gets its host (path style or virtual host), its
//! body as one buffer (so the signature covers the content: the store verifies the SHA-256 of every part), the signature
//! and our HTTP client. rusoto's own client is never constructed.

use super::{Signature, auth::Source, old_signature};
use crate::storage::http::{HttpClient, HttpError};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use rusoto_core::{
    ByteStream as RusotoStream, DispatchSignedRequest,
    credential::AwsCredentials,
    request::{DispatchSignedRequestFuture, HttpDispatchError, HttpResponse},
    signature::{SignedRequest, SignedRequestPayload},
};
use std::sync::Arc;

/// What a dispatch error begins with if repeating is of no use. rusoto carries only text.
pub const LASTING: &str = "(lasting) ";

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `http` or `https`.
    pub scheme: String,
    /// Host and, if not the scheme's own, port.
    pub host: String,
    pub bucket: String,
    /// The bucket in the path instead of in the host name.
    pub path_style: bool,
}

/// The dispatcher given to rusoto's client.
#[derive(Debug, Clone)]
pub struct Dispatch {
    pub http: HttpClient,
    pub address: Arc<Address>,
    pub source: Arc<Source>,
    pub signature: Signature,
}

impl DispatchSignedRequest for Dispatch {
    fn dispatch(&self, request: SignedRequest, _: Option<std::time::Duration>) -> DispatchSignedRequestFuture {
        let to = self.clone();
        Box::pin(async move { to.send(request).await })
    }
}

impl Dispatch {
    async fn send(&self, mut request: SignedRequest) -> Result<HttpResponse, HttpDispatchError> {
        let content = match request.payload.take() {
            None => Bytes::new(),
            Some(SignedRequestPayload::Buffer(content)) => content,
            // The parts of an upload: in memory already, in one piece.
            Some(SignedRequestPayload::Stream(stream)) => join(stream).await?,
        };
        self.address(&mut request);
        if !content.is_empty() || request.method == "PUT" || request.method == "POST" {
            request.set_payload(Some(content.clone()));
        }
        let keys = self.source.credentials().await.map_err(|error| {
            HttpDispatchError::new(format!("{LASTING}no credentials for the storage were found: {error}"))
        })?;
        // Hashing a part takes milliseconds: not on a thread that others wait for.
        let request = if content.len() > 256 << 10 {
            let (to, content) = (self.clone(), content.clone());
            tokio::task::spawn_blocking(move || {
                to.sign(&mut request, &content, &keys);
                request
            })
            .await
            .map_err(|error| HttpDispatchError::new(error.to_string()))?
        } else {
            self.sign(&mut request, &content, &keys);
            request
        };
        let request = self.http_request(&request, content)?;
        let answer = self.http.send(request).await.map_err(|error| dispatch_error(&error))?;
        let (head, body) = answer.into_parts();
        let status = http_old::StatusCode::from_u16(head.status.as_u16())
            .map_err(|error| HttpDispatchError::new(error.to_string()))?;
        let mut headers = http_old::HeaderMap::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            if let (Ok(name), Ok(value)) = (http_old::HeaderName::from_bytes(name.as_str().as_bytes()), value.to_str())
            {
                headers.append(name, value.to_owned());
            }
        }
        Ok(HttpResponse { status, headers, body: RusotoStream::new(body.map(|piece| piece)) })
    }

    fn sign(&self, request: &mut SignedRequest, content: &[u8], keys: &AwsCredentials) {
        let at = &*self.address;
        match self.signature {
            Signature::Current => request.sign(keys),
            Signature::Old => {
                let in_host = Some(at.bucket.as_str()).filter(|_| request.hostname() != at.host);
                old_signature::sign(request, content, keys, in_host);
            }
        }
    }

    fn address(&self, request: &mut SignedRequest) {
        let at = &*self.address;
        request.scheme = Some(at.scheme.clone());
        let bucket = format!("/{}", at.bucket);
        let below = request.path.strip_prefix(&bucket).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        match below {
            Some(rest) if !at.path_style => {
                request.path = if rest.is_empty() { "/".to_owned() } else { rest.to_owned() };
                request.set_hostname(Some(format!("{}.{}", at.bucket, at.host)));
            }
            _ => request.set_hostname(Some(at.host.clone())),
        }
    }

    fn http_request(&self, request: &SignedRequest, content: Bytes) -> Result<http::Request<Bytes>, HttpDispatchError> {
        let invalid = |error: String| HttpDispatchError::new(format!("{LASTING}the request can't be sent: {error}"));
        let query = request.canonical_query_string();
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = format!("{}://{}{}{mark}{query}", request.scheme(), request.hostname(), request.canonical_uri());
        let mut built = http::Request::builder().method(request.method()).uri(uri);
        for (name, values) in request.headers() {
            for value in values {
                built = built.header(name.as_str(), value.as_slice());
            }
        }
        built.body(content).map_err(|error| invalid(error.to_string()))
    }
}

async fn join(mut stream: RusotoStream) -> Result<Bytes, HttpDispatchError> {
    let failed = |error: std::io::Error| HttpDispatchError::new(error.to_string());
    let Some(first) = stream.try_next().await.map_err(failed)? else { return Ok(Bytes::new()) };
    let Some(second) = stream.try_next().await.map_err(failed)? else { return Ok(first) };
    let mut whole = BytesMut::from(first);
    whole.extend_from_slice(&second);
    while let Some(piece) = stream.try_next().await.map_err(failed)? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn dispatch_error(error: &HttpError) -> HttpDispatchError {
    let mark = if error.is_retryable() { "" } else { LASTING };
    HttpDispatchError::new(format!("{mark}{error}"))
}
