//! Other names of replica sets, on the command line.

use std::collections::BTreeMap;

/// Replica set of the backup → of the cluster.
pub type Remapping = BTreeMap<String, String>;

/// `cluster=backup,…`, the order of the original.
pub fn parse_remapping(text: &str) -> Result<Remapping, String> {
    let mut map = Remapping::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((to, from)) = pair.split_once('=').map(|(to, from)| (to.trim(), from.trim())) else {
            return Err(format!("'{pair}' is not CLUSTER=BACKUP"));
        };
        if to.is_empty() || from.is_empty() || from.contains('=') {
            return Err(format!("'{pair}' is not CLUSTER=BACKUP"));
        }
        if map.values().any(|other| other == to) {
            return Err(format!("'{to}' of the cluster stands twice"));
        }
        if map.insert(from.to_owned(), to.to_owned()).is_some() {
            return Err(format!("'{from}' of the backup stands twice"));
        }
    }
    Ok(map)
}
