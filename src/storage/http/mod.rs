//! The one HTTP client of all object stores: HTTP/1.1 over hyper and rustls.
//!
//! # What it promises
//!
//! - A request or an answer that makes no progress for [`Settings::stall`] fails, however large the body is; one that makes
//!   progress may take as long as it needs.
//! - Certificates are checked against the system's store (`SSL_CERT_FILE`, `SSL_CERT_DIR` replace it), or against Mozilla's
//!   list where the system has none.
//! - `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured (`connect`); link-local addresses (metadata
//!   services) are never asked through a proxy.
//! - Nothing is repeated here, and no redirect is followed: callers know what may be sent twice.
//!
//! Request bodies are in memory: what is uploaded is cut into parts of bounded size before.

mod body;
mod connect;
use super::{ByteStream, rate::Pace};
use body::{Outgoing, Progress};
use bytes::Bytes;
use connect::Dial;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper_rustls::HttpsConnector;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{
    fmt, io,
    time::{Duration, Instant},
};

/// How connections are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Accept any certificate.
    pub skip_tls_verify: bool,
    pub connect_timeout: Duration,
    /// Longest time without a byte in either direction.
    pub stall: Duration,
    /// How fast bodies are sent; `None` is as fast as they can be.
    pub pace: Option<Pace>,
    /// Log every request and what was answered, as debugging lines.
    pub trace: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            skip_tls_verify: false,
            connect_timeout: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            pace: None,
            trace: false,
        }
    }
}

/// Why there is no (whole) answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    #[error("can't connect to {at}: {reason}")]
    Connect { at: String, reason: String },
    #[error(
        "the certificate of {at} is not accepted: {reason}; put its CA into a file named by SSL_CERT_FILE in the agent's environment"
    )]
    Untrusted { at: String, reason: String },
    #[error("{at} did not answer for {} s", .after.as_secs_f32())]
    Stalled { at: String, after: Duration },
    #[error("the connection to {at} broke: {reason}")]
    Broken { at: String, reason: String },
    #[error("the request can't be sent: {0}")]
    Invalid(String),
}

impl HttpError {
    /// May the same request succeed later without anybody changing anything?
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Stalled { .. } | Self::Broken { .. })
    }
}

impl From<HttpError> for io::Error {
    fn from(error: HttpError) -> Self {
        let kind = match error {
            HttpError::Connect { .. } => io::ErrorKind::NotConnected,
            HttpError::Stalled { .. } => io::ErrorKind::TimedOut,
            HttpError::Broken { .. } => io::ErrorKind::ConnectionReset,
            HttpError::Untrusted { .. } | HttpError::Invalid(_) => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// An answer whose body arrives in pieces. Errors in it are [`HttpError`]s inside [`io::Error`]s.
pub type Answer = http::Response<ByteStream>;

/// Keeps connections and uses them again. Clones share them.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<Dial>, Outgoing>,
    dial: Dial,
    settings: Settings,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// # Errors
    /// CA files that can't be read, and proxies of a kind that can't be used.
    pub fn new(settings: Settings) -> Result<Self, HttpError> {
        let dial = Dial::new(settings.connect_timeout)?;
        let connector = connect::tls(dial.clone(), settings.skip_tls_verify)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(50))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        Ok(Self { client, dial, settings })
    }

    /// Sends `request` and returns as soon as the head of the answer is there, whatever its status.
    ///
    /// # Errors
    /// As [`HttpError`]; an answer with a status of failure is not one.
    pub async fn send(&self, mut request: http::Request<Bytes>) -> Result<Answer, HttpError> {
        let at = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        if let Some(authorization) = self.dial.proxy_authorization(request.uri()) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let shown = self.settings.trace.then(|| format!("{} {}", request.method(), request.uri()));
        let begun = Instant::now();
        let progress = Progress::default();
        let request = request.map(|content| Outgoing::new(content, progress.clone(), self.settings.pace.clone()));
        let mut sending = self.client.request(request);
        let stall = self.settings.stall;
        let answer = loop {
            let before = progress.seen();
            match tokio::time::timeout(stall, &mut sending).await {
                Ok(answer) => break answer.map_err(|error| failure(&at, &error)),
                Err(_) if progress.seen() != before => {}
                Err(_) => break Err(HttpError::Stalled { at: at.clone(), after: stall }),
            }
        };
        if let Some(request) = shown {
            let took = begun.elapsed().as_millis();
            match &answer {
                Ok(answer) => tracing::debug!("{request}: {} after {took} ms", answer.status()),
                Err(error) => tracing::debug!("{request}: {error} after {took} ms"),
            }
        }
        let answer = answer?;
        Ok(answer.map(|body| incoming(body, at, stall)))
    }

    /// As [`HttpClient::send`], with the whole body, at most `limit` bytes of it.
    ///
    /// # Errors
    /// As [`HttpError`].
    pub async fn send_whole(
        &self,
        request: http::Request<Bytes>,
        limit: usize,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = collect(body, limit).await?;
        Ok(http::Response::from_parts(head, body))
    }
}

/// Reads a body to its end, at most `limit` bytes of it: what is longer is cut.
///
/// # Errors
/// Those of the body.
pub async fn collect(mut body: ByteStream, limit: usize) -> Result<Bytes, HttpError> {
    let mut whole = bytes::BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece =
            piece.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref::<HttpError>()) {
                Some(inner) => inner.clone(),
                None => HttpError::Broken { at: "the store".to_owned(), reason: error.to_string() },
            })?;
        whole.extend_from_slice(&piece[..piece.len().min(limit - whole.len())]);
        if whole.len() == limit {
            break;
        }
    }
    Ok(whole.freeze())
}

fn incoming(body: hyper::body::Incoming, at: String, stall: Duration) -> ByteStream {
    stream::try_unfold((body, at), move |(mut body, at)| async move {
        loop {
            let frame = match tokio::time::timeout(stall, body.frame()).await {
                Err(_) => return Err(HttpError::Stalled { at, after: stall }.into()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(HttpError::Broken { at, reason: chain(&error) }.into()),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some((data, (body, at))));
            }
        }
    })
    .boxed()
}

fn failure(at: &str, error: &hyper_util::client::legacy::Error) -> HttpError {
    let (at, reason) = (at.to_owned(), chain(error));
    if refuses_certificate(error) {
        return HttpError::Untrusted { at, reason };
    }
    if error.is_connect() { HttpError::Connect { at, reason } } else { HttpError::Broken { at, reason } }
}

/// All reasons, outermost first, without those that only repeat another.
fn chain(error: &dyn std::error::Error) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !reasons.iter().any(|known| known.contains(&text)) {
            reasons.push(text);
        }
        next = error.source();
    }
    reasons.join(": ")
}

fn refuses_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(inner) = io.get_ref()
            && refuses_certificate(inner)
        {
            return true;
        }
        if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = error.source();
    }
    false
}
