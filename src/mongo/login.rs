//! Who are we to this server, and what may we do there? (`connectionStatus`)

use anyhow::{Context, Result};
use bson::doc;
use mongodb::Client;
use serde::Deserialize;

/// The users of a connection with their roles and privileges.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// Empty where nobody had to log in.
    #[serde(default, rename = "authenticatedUsers")]
    pub users: Vec<User>,
    /// Inherited ones included.
    #[serde(default, rename = "authenticatedUserRoles")]
    pub roles: Vec<Role>,
    #[serde(default, rename = "authenticatedUserPrivileges")]
    pub privileges: Vec<Privilege>,
}

/// A user and the database that knows the password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct User {
    pub user: String,
    pub db: String,
}

/// A role and the database that defines it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Role {
    pub role: String,
    pub db: String,
}

/// Actions on a resource.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Privilege {
    #[serde(default)]
    pub resource: Resource,
    #[serde(default)]
    pub actions: Vec<String>,
}

/// As far as we tell resources apart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    #[serde(default)]
    pub any_resource: bool,
    #[serde(default)]
    pub cluster: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    auth_info: Login,
}

/// Asks the server that `client` leads to.
///
/// # Errors
/// It does not answer.
pub async fn login(client: &Client) -> Result<Login> {
    let command = doc! { "connectionStatus": 1, "showPrivileges": true };
    let answer = client.database("admin").run_command(command).await.context("run connectionStatus")?;
    let answer: Answer = bson::deserialize_from_document(answer).context("read the answer to connectionStatus")?;
    Ok(answer.auth_info)
}
