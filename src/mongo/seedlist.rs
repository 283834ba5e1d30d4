//! What a `mongodb+srv` connection string stands for. Such a name leads wherever DNS says at the moment, to a router too,
//! so it is refused, as the original refuses it (docs/format.md D.1). The refusal says what to give in its place.

use super::connect::{Purpose, Unusable};
use mongodb::options::{ClientOptions, Tls};
use std::time::Duration;

/// How long DNS may take; that it is refused does not depend on the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why `uri` can't be used. For a connection to a replica set, with the addresses of the name's SRV record and the options
/// of its TXT record when DNS has them.
pub(super) async fn refusal(uri: &str, purpose: Purpose) -> Unusable {
    let advice = match purpose {
        Purpose::Node { .. } => "the mongodb:// address of the agent's own mongod".to_owned(),
        Purpose::Leader { .. } => match tokio::time::timeout(PATIENCE, ClientOptions::parse(uri)).await {
            Ok(Ok(options)) => {
                format!("the members' own addresses: by DNS {}, with your user and other options", plain(&options))
            }
            Ok(Err(error)) => {
                let why = super::admin::explain(&error.into());
                format!("the mongodb:// addresses of members, which could not be looked up: {why}")
            }
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                format!("the mongodb:// addresses of members, which could not be looked up: no answer in {seconds} s")
            }
        },
    };
    Unusable(format!("mongodb+srv:// is not followed, as it may lead to a router; give {advice}"))
}

/// The connection string that names the same hosts, without the user.
fn plain(options: &ClientOptions) -> String {
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    // The scheme switches TLS on unless the string says otherwise.
    let tls = matches!(options.tls, Some(Tls::Enabled(_)));
    let set = options.repl_set_name.iter().map(|name| format!("&replicaSet={name}")).collect::<String>();
    format!("mongodb://{}/?tls={tls}{set}", hosts.join(","))
}
