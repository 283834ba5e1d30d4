//! Settings that are accepted but have no effect. The original has them, and its configurations must be accepted
//! unchanged. A user who sets one of them gets a message.

use super::{paths, to_document};
use crate::model::config::Config;

const VAULT: &str = "it is taken and used for nothing, as in the original";
const NATIVE: &str = "it belongs to the native interface of the store, which is not spoken here";

/// The keys, each with the reason why it has no effect.
pub const IDLE: &[(&str, &str)] = &[
    ("storage.s3.credentials.vault.server", VAULT),
    ("storage.s3.credentials.vault.secret", VAULT),
    ("storage.s3.credentials.vault.token", VAULT),
    ("storage.oss.credentials.sessionName", "roles are not assumed here"),
    ("storage.oci.credentials.userPrincipal.tenancy", NATIVE),
    ("storage.oci.credentials.userPrincipal.user", NATIVE),
    ("storage.oci.credentials.userPrincipal.fingerprint", NATIVE),
    ("storage.oci.credentials.userPrincipal.privateKey", NATIVE),
    ("storage.oci.credentials.userPrincipal.privateKeyPassphrase", NATIVE),
    ("restore.timeouts.startingStatus", "restores have no such limit"),
];

/// Returns messages about such settings in a configuration; with `only`, just about those keys.
#[must_use]
pub fn told(config: &Config, only: Option<&[&str]>) -> Vec<String> {
    let doc = to_document(config).unwrap_or_default();
    let set = IDLE.iter().filter(|(key, _)| paths::lookup(&doc, key).is_some());
    let asked = |key: &str| {
        only.is_none_or(|only| {
            // The user may have set a whole group or an entry of a map.
            let within =
                |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            only.iter().any(|it| within(it, key) || within(key, it))
        })
    };
    set.filter(|(key, _)| asked(key)).map(|(key, why)| format!("{key} has no effect: {why}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, schema};

    #[test]
    fn what_has_no_effect_is_told() {
        let config = load(
            "storage: {type: filesystem, filesystem: {path: /b}}\nbackup: {compression: zstd}\n\
             restore: {timeouts: {startingStatus: 5}, batchSize: 5}",
        )
        .expect("good");
        let all = told(&config, None);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].starts_with("restore.timeouts.startingStatus has no effect: restores have"), "{all:?}");
        assert_eq!(told(&config, Some(&["restore.batchSize"])), [""; 0]);
        assert_eq!(told(&config, Some(&["restore.timeouts"])), all);
        assert!(IDLE.iter().all(|(key, _)| schema::find(key).is_some()), "a key is wrong");
    }
}
