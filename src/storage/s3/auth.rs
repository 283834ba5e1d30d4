//! Who signs: fixed keys, or the credentials that AWS's usual chain finds, renewed before they expire.
//!
//! The chain (environment, shared files with `credential_process` and SSO, web identity, ECS and EKS, IMDSv2) is that of
//! `aws-config`, over our own HTTP client. What it found is kept until [`EARLY`] before it expires, so an upload of hours
//! never sends an expired token; a store that calls credentials expired makes us ask again.

use crate::storage::http::HttpClient;
use aws_config::{
    BehaviorVersion, Region, default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig,
};
use aws_credential_types::{Credentials, provider::ProvideCredentials};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use rusoto_core::credential::AwsCredentials;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::{Mutex, OnceCell};

/// Credentials are renewed so long before they expire.
const EARLY: Duration = Duration::from_secs(300);

/// The answers of credential services are small.
const LARGEST_ANSWER: usize = 1 << 20;

/// Fixed keys of the settings.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where credentials come from.
#[derive(Debug)]
pub enum Source {
    Fixed(Keys),
    Found(Box<Finder>),
}

/// Finds credentials, and keeps what it found.
#[derive(Debug)]
pub struct Finder {
    region: String,
    http: HttpClient,
    /// Built at the first use: reading files and asking metadata services takes time.
    chain: OnceCell<DefaultCredentialsChain>,
    found: Mutex<Option<Credentials>>,
}

impl Source {
    #[must_use]
    pub fn new(keys: Option<Keys>, region: &str, http: &HttpClient) -> Self {
        match keys {
            Some(keys) => Self::Fixed(keys),
            None => Self::Found(Box::new(Finder {
                region: region.to_owned(),
                http: http.clone(),
                chain: OnceCell::new(),
                found: Mutex::new(None),
            })),
        }
    }

    /// Credentials that are good for at least a few minutes.
    ///
    /// # Errors
    /// What the chain tried and missed, in words.
    pub async fn credentials(&self) -> Result<AwsCredentials, String> {
        let finder = match self {
            Self::Fixed(keys) => {
                return Ok(AwsCredentials::new(&keys.id, &keys.secret, keys.token.clone(), None));
            }
            Self::Found(finder) => finder,
        };
        let mut found = finder.found.lock().await;
        let good = |it: &&Credentials| it.expiry().is_none_or(|end| end > SystemTime::now() + EARLY);
        if found.as_ref().filter(good).is_none() {
            let chain = finder.chain.get_or_init(|| build(&finder.region, &finder.http)).await;
            match chain.provide_credentials().await {
                Ok(new) => *found = Some(new),
                // Renewal failed, but the old ones are still accepted: better to go on and try again at the next request.
                Err(_) if found.as_ref().and_then(Credentials::expiry).is_some_and(|end| end > SystemTime::now()) => {}
                Err(error) => return Err(chain_of(&error)),
            }
        }
        let it = found.as_ref().ok_or("no credentials were found")?;
        Ok(AwsCredentials::new(it.access_key_id(), it.secret_access_key(), it.session_token().map(str::to_owned), None))
    }

    /// Forgets what was found, because the store says that it has expired. Is asking again of any use?
    pub async fn forget(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Found(finder) => {
                *finder.found.lock().await = None;
                true
            }
        }
    }
}

async fn build(region: &str, http: &HttpClient) -> DefaultCredentialsChain {
    let region = Region::new(region.to_owned());
    let config = ProviderConfig::without_region()
        .with_region(Some(region.clone()))
        .with_behavior_version(Some(BehaviorVersion::latest()))
        .with_http_client(Transport(http.clone()));
    DefaultCredentialsChain::builder().region(region).configure(config).build().await
}

fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Our HTTP client as `aws-config` wants it.
#[derive(Debug, Clone)]
struct Transport(HttpClient);

impl aws_smithy_runtime_api::client::http::HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = Arc::new(self.0.clone());
        HttpConnectorFuture::new(async move {
            let other = |error: String| ConnectorError::other(error.into(), None);
            let request = request.try_into_http1x().map_err(|error| other(error.to_string()))?;
            let (head, body) = request.into_parts();
            // Requests of credential providers are never streamed.
            let body = body.bytes().map(bytes::Bytes::copy_from_slice).unwrap_or_default();
            let request = http::Request::from_parts(head, body);
            let answer = client
                .send_whole(request, LARGEST_ANSWER)
                .await
                .map_err(|error| ConnectorError::io(Box::new(std::io::Error::from(error))))?;
            let (head, body) = answer.into_parts();
            let status = StatusCode::try_from(head.status.as_u16()).map_err(|error| other(error.to_string()))?;
            let mut response = HttpResponse::new(status, SdkBody::from(body));
            for (name, value) in &head.headers {
                if let Ok(value) = value.to_str() {
                    response.headers_mut().append(name.as_str().to_owned(), value.to_owned());
                }
            }
            Ok(response)
        })
    }
}
