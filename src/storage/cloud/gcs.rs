//! Google Cloud Storage, by its XML interface.

use super::{CloudStorage, retry_config, transport::Transport};
use crate::storage::{Error, Result, http, parts::Cut, patience::Patience, ranges::Downloads};
use object_store::gcp::GoogleCloudStorageBuilder;
use std::{fmt, sync::Arc};

const LARGEST_OBJECT: u64 = 5 << 40;

/// How requests are allowed.
#[derive(Clone, PartialEq, Eq)]
pub enum GcsAccess {
    /// The key of a service account: its address and its private key in PEM.
    ServiceAccount { email: String, key: String },
    /// What the environment offers: the file in `GOOGLE_APPLICATION_CREDENTIALS`, else the identity of the machine or pod.
    Environment,
    /// A document as Google's key files are; tests name their server in it (`gcs_base_url`, `disable_oauth`).
    Document(String),
}

impl fmt::Debug for GcsAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceAccount { .. } => "ServiceAccount",
            Self::Environment => "Environment",
            Self::Document(_) => "Document",
        })
    }
}

/// Everything about one bucket.
#[derive(Debug, Clone)]
pub struct GcsSettings {
    pub bucket: String,
    /// Without slashes at its ends.
    pub prefix: String,
    pub access: GcsAccess,
    pub cut: Cut,
    pub patience: Patience,
    pub http: http::Settings,
}

impl CloudStorage {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that can't work.
    pub fn gcs(settings: GcsSettings) -> Result<Self> {
        let shown = format!("gcs {}/{}", settings.bucket, settings.prefix);
        let shown = shown.trim_end_matches('/').to_owned();
        let invalid = |reason: String| Error::Invalid { store: shown.clone(), reason };
        let transport = Transport::new(settings.http).map_err(|error| invalid(error.to_string()))?;
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&settings.bucket)
            .with_retry(retry_config(settings.patience))
            .with_http_connector(transport);
        builder = match &settings.access {
            GcsAccess::ServiceAccount { email, key } => builder.with_service_account_key(account(email, key)),
            GcsAccess::Document(document) => builder.with_service_account_key(document),
            GcsAccess::Environment => match std::env::var("GOOGLE_APPLICATION_CREDENTIALS") {
                Ok(file) => builder.with_application_credentials(file),
                Err(_) => builder,
            },
        };
        let build = |builder: GoogleCloudStorageBuilder| builder.build().map(Arc::new);
        let blobs = build(builder.clone()).map_err(|error| invalid(error.to_string()))?;
        let uploads = match settings.patience.part {
            None => blobs.clone(),
            Some(_) => build(builder.with_retry(retry_config(settings.patience.for_part())))
                .map_err(|error| invalid(error.to_string()))?,
        };
        Ok(Self {
            blobs,
            uploads,
            shown: shown.into(),
            prefix: settings.prefix.into(),
            cut: settings.cut,
            largest_object: LARGEST_OBJECT,
            downloads: Downloads::default(),
        })
    }
}

/// A key file's content. Configuration files often have the line breaks of the key as `\n`.
fn account(email: &str, key: &str) -> String {
    let key = key.replace("\\n", "\n");
    serde_json::json!({ "type": "service_account", "client_email": email, "private_key": key, "private_key_id": "" })
        .to_string()
}
