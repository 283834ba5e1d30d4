//! A stand-in for the crate of this name: rusoto_core does not compile without an HTTP client of its own, and that
//! client would bring a second, outdated TLS library. Nothing here constructs it: all requests go through
//! `storage::s3::dispatch`, over the HTTP and TLS stack of the rest of the program.

use hyper::Uri;
use hyper::client::HttpConnector;
use hyper::service::Service;
use std::task::{Context, Poll};

/// Connects without TLS, and only to where plain HTTP is asked for.
#[derive(Clone, Debug)]
pub struct HttpsConnector<T>(T);

impl HttpsConnector<HttpConnector> {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "the interface of the crate that this stands in for")]
    pub fn new() -> Self {
        Self(HttpConnector::new())
    }
}

impl<T: Service<Uri>> Service<Uri> for HttpsConnector<T> {
    type Response = T::Response;
    type Error = T::Error;
    type Future = T::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        self.0.call(to)
    }
}
