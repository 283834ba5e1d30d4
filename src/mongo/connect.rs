//! From a connection string to a client, with the concerns that backups need (docs/format.md D.1).

use anyhow::{Context, Result, bail};
use mongodb::Client;
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadConcernLevel, ReadPreference, SelectionCriteria, WriteConcern,
};
use std::{fmt, time::Duration};

/// What a connection is for: decides where it leads and the name it has in the server's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The replica set's primary, for control collections.
    Leader { app: &'static str },
    /// Exactly the node of the connection string.
    Node { app: &'static str },
}

/// A connection string. It may hold a password, so it is never shown.
#[derive(Clone)]
pub struct Uri(String);

impl Uri {
    #[must_use]
    pub fn new(uri: &str) -> Self {
        Self(uri.to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uri")
    }
}

/// A connection string that can't be used for backups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection string can't be used: {0}")]
pub struct Unusable(pub String);

/// Opens a client. No server is contacted yet.
///
/// Read and write concern are majority and reads go to the primary unless the string says otherwise. A write waits for other
/// members no longer than [`super::majority::PATIENCE`], or the string's `wtimeoutMS`.
///
/// # Errors
/// A string that can't be parsed, `mongodb+srv`, unacknowledged writes, or majority reads with `w=1` writes (which
/// could be rolled back after we acted on them).
pub async fn connect(uri: &str, purpose: Purpose) -> Result<Client> {
    let options = options(uri, purpose).await?;
    Client::with_options(options).context("set up the MongoDB client")
}

/// Opens a client to the same user and TLS settings on other hosts (`host:port,host:port`).
pub async fn connect_elsewhere(uri: &str, hosts: &str, purpose: Purpose) -> Result<Client> {
    let mut options = options(uri, purpose).await?;
    options.hosts = hosts
        .split(',')
        .map(mongodb::options::ServerAddress::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("parse the host list '{hosts}'"))?;
    options.repl_set_name = None;
    options.direct_connection = Some(false);
    Client::with_options(options).context("set up the MongoDB client")
}

/// Opens a client to exactly one member (`host:port`), with the user and TLS settings of `uri`. What is not answered
/// within `patience` fails.
pub async fn connect_member(uri: &str, host: &str, app: &'static str, patience: Duration) -> Result<Client> {
    let mut options = options(uri, Purpose::Leader { app }).await?;
    options.hosts = vec![mongodb::options::ServerAddress::parse(host).with_context(|| format!("parse '{host}'"))?];
    options.repl_set_name = None;
    options.direct_connection = Some(true);
    options.selection_criteria =
        Some(SelectionCriteria::ReadPreference(ReadPreference::PrimaryPreferred { options: Option::default() }));
    options.server_selection_timeout = Some(patience);
    options.connect_timeout = Some(patience);
    Client::with_options(options).context("set up the MongoDB client")
}

/// Adds the scheme when it is missing.
fn with_scheme(uri: &str) -> Result<String, Unusable> {
    let uri = uri.trim();
    if uri.is_empty() {
        return Err(Unusable("it is empty; give --mongodb-uri or set PBM_MONGODB_URI".to_owned()));
    }
    match uri.split_once("://") {
        Some(("mongodb", _)) => Ok(uri.to_owned()),
        None => Ok(format!("mongodb://{uri}")),
        // A password without its escapes may hold anything, `://` included.
        Some((scheme, _)) if scheme.contains([':', '@', '/']) => Ok(format!("mongodb://{uri}")),
        Some((scheme, _)) => Err(Unusable(format!("it begins with {scheme}:// in place of mongodb://"))),
    }
}

async fn options(uri: &str, purpose: Purpose) -> Result<ClientOptions> {
    if uri.trim().starts_with("mongodb+srv://") {
        bail!(super::seedlist::refusal(uri.trim(), purpose).await);
    }
    let uri = with_scheme(uri)?;
    let mut options = ClientOptions::parse(&uri).await.context("parse the MongoDB connection string")?;
    super::ca_store::the_system(&mut options);
    let majority_reads =
        options.read_concern.get_or_insert_with(ReadConcern::majority).level == ReadConcernLevel::Majority;
    let writes = options.write_concern.get_or_insert_with(WriteConcern::majority);
    match writes.w {
        Some(Acknowledgment::Nodes(0)) => {
            bail!(Unusable("w=0, but the writes of a backup must be acknowledged".to_owned()))
        }
        Some(Acknowledgment::Nodes(1)) if majority_reads => {
            bail!(Unusable("w=1 with majority reads; add readConcernLevel=local or drop w=1".to_owned()))
        }
        None => writes.w = Some(Acknowledgment::Majority),
        _ => {}
    }
    writes.w_timeout.get_or_insert(super::majority::PATIENCE);
    options.selection_criteria.get_or_insert(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.server_selection_timeout.get_or_insert(Duration::from_secs(20));
    options.connect_timeout.get_or_insert(Duration::from_secs(10));
    let app = match purpose {
        Purpose::Leader { app } => {
            options.direct_connection = Some(false);
            app
        }
        Purpose::Node { app } => {
            if options.hosts.len() > 1 {
                bail!(
                    "an agent serves one mongod, but the connection string names {} hosts; give only the agent's own",
                    options.hosts.len()
                );
            }
            options.direct_connection = Some(true);
            options.repl_set_name = None;
            // A direct connection reads from its node whatever its state.
            options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::PrimaryPreferred {
                options: Option::default(),
            }));
            app
        }
    };
    options.app_name.get_or_insert_with(|| app.to_owned());
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Purpose = Purpose::Leader { app: "test" };
    const NODE: Purpose = Purpose::Node { app: "test" };

    #[tokio::test]
    async fn concerns_default_to_majority() {
        let got = options("localhost:27017", LEADER).await.expect("options");
        assert_eq!(got.read_concern, Some(ReadConcern::majority()));
        let bounded = WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(super::super::majority::PATIENCE);
        assert_eq!(got.write_concern, Some(bounded.build()));
        let got = options("mongodb://h/?readConcernLevel=local&w=1", LEADER).await.expect("options");
        assert_eq!(got.write_concern.and_then(|w| w.w), Some(Acknowledgment::Nodes(1)));
    }

    #[tokio::test]
    async fn refuses_what_cannot_be_trusted() {
        for (uri, why) in [("", "empty"), ("mongodb://h/?w=0", "acknowledged"), ("mongodb://h/?w=1", "majority reads")]
        {
            let error = options(uri, LEADER).await.expect_err(uri);
            assert!(format!("{error:#}").contains(why), "{uri}: {error:#}");
        }
        assert!(options("mongodb://a,b/", NODE).await.is_err());
        let error = options("mongodb+srv://x.example", NODE).await.expect_err("a whole cluster");
        assert!(format!("{error:#}").contains("the agent's own mongod"), "{error:#}");
    }
}
