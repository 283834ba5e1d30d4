//! Azure Blob Storage.

use super::{CloudStorage, retry_config, transport::Transport};
use crate::storage::{Error, Result, http, parts::Cut, patience::Patience, ranges::Downloads};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use std::{fmt, sync::Arc};

/// 50,000 blocks of 4000 MiB.
const LARGEST_OBJECT: u64 = 50_000 * (4000 << 20);

/// How requests are allowed.
#[derive(Clone, PartialEq, Eq)]
pub enum AzureAccess {
    /// The account's key, in base64.
    Key(String),
    /// A shared access signature: `sv=…&sig=…`.
    Sas(String),
    /// What the environment offers: a service principal (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET`),
    /// workload identity (`AZURE_FEDERATED_TOKEN_FILE`), else the machine's managed identity.
    Environment,
}

impl fmt::Debug for AzureAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::Sas(_) => "Sas",
            Self::Environment => "Environment",
        })
    }
}

/// Everything about one container.
#[derive(Debug, Clone)]
pub struct AzureSettings {
    pub account: String,
    pub container: String,
    /// Without slashes at its ends.
    pub prefix: String,
    /// None: Azure's own for the account.
    pub endpoint: Option<String>,
    pub access: AzureAccess,
    pub cut: Cut,
    pub patience: Patience,
    pub http: http::Settings,
}

impl CloudStorage {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that can't work.
    pub fn azure(settings: AzureSettings) -> Result<Self> {
        let at =
            settings.endpoint.clone().unwrap_or_else(|| format!("https://{}.blob.core.windows.net", settings.account));
        let shown = [at.trim_end_matches('/'), &settings.container, &settings.prefix];
        let shown = format!("azure {}", shown.join("/").trim_end_matches('/'));
        let invalid = |reason: String| Error::Invalid { store: shown.clone(), reason };
        let transport = Transport::new(settings.http).map_err(|error| invalid(error.to_string()))?;
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&settings.account)
            .with_container_name(&settings.container)
            .with_allow_http(true)
            .with_endpoint(at.trim_end_matches('/').to_owned())
            .with_retry(retry_config(settings.patience))
            .with_http_connector(transport);
        match &settings.access {
            AzureAccess::Key(key) => builder = builder.with_access_key(key),
            AzureAccess::Sas(text) => {
                builder = builder.with_config(AzureConfigKey::SasKey, text.trim_start_matches('?'));
            }
            AzureAccess::Environment => {
                for (name, key) in [
                    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
                    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
                    ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
                    ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
                    ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
                ] {
                    if let Ok(value) = std::env::var(name) {
                        builder = builder.with_config(key, value);
                    }
                }
            }
        }
        let blobs = Arc::new(builder.build().map_err(|error| invalid(error.to_string()))?);
        Ok(Self {
            uploads: blobs.clone(),
            blobs,
            shown: shown.into(),
            prefix: settings.prefix.into(),
            cut: settings.cut,
            largest_object: LARGEST_OBJECT,
            downloads: Downloads::default(),
        })
    }
}
