//! Decides which replica sets of the cluster take part in a restore, and which part of the backup each one gets
//! (docs/format.md E.3).

use crate::routing::shard_ids::{Ids, ids};
use crate::{layout::Generation, model::backup::BackupMeta, topo::cluster::Cluster};
use anyhow::Context as _;
use bson::Document;
use std::collections::BTreeMap;

/// The assignment of the backup's parts to replica sets of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participants {
    /// Maps each replica set of the cluster to its replica set in the backup.
    pub parts: BTreeMap<String, String>,
    /// Maps each shard id in the backup to the shard id in the cluster, if they differ. A backup made before 2.0 does
    /// not record its shard ids here, so the names of its replica sets are used.
    pub ids: Ids,
    /// Maps each replica set of the backup to its shard id in the cluster.
    pub places: BTreeMap<String, String>,
}

/// Finds the participants, or returns all reasons against the restore. `map` is the operator's mapping: backup →
/// cluster.
///
/// If a replica set of the cluster is not in the backup, it takes no part. If a replica set of the backup has no
/// counterpart in the cluster, that is an error, because its data would be lost.
pub fn participants(
    backup: &BackupMeta,
    cluster: &Cluster,
    map: &BTreeMap<String, String>,
) -> Result<Participants, Vec<String>> {
    let mut problems = Vec::new();
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    let (mut pairs, mut places) = (Vec::new(), BTreeMap::new());
    let here = cluster.names().join(", ");
    for from in map.keys().filter(|from| !backup.replsets.iter().any(|part| part.name == **from)) {
        problems.push(format!("the mapping names '{from}', which the backup does not have"));
    }
    for part in &backup.replsets {
        let to = map.get(&part.name).unwrap_or(&part.name);
        let Some(member) = cluster.members.get(to) else {
            problems.push(format!(
                "replica set '{}' of the backup should go to '{to}', which the cluster does not have (it has: {here}); \
                 name its place with --replset-remapping CLUSTER={}",
                part.name, part.name
            ));
            continue;
        };
        if let Some(other) = parts.insert(to.clone(), part.name.clone()) {
            problems.push(format!("replica sets '{other}' and '{}' of the backup would both go to '{to}'", part.name));
        }
        // A backup made before 2.0 does not record which replica set belongs to the config servers.
        let unknown = Generation::of(&backup.pbm_version) == Generation::Archive && !part.iscs;
        if part.iscs != member.config && !unknown {
            let role = |config| if config { "is a config server" } else { "is none" };
            problems.push(format!(
                "replica set '{}' of the backup {}, but '{to}' of the cluster {}",
                part.name,
                role(part.iscs),
                role(member.config)
            ));
        }
        if part.configshard {
            problems.push(format!(
                "replica set '{}' of the backup was config server and shard at once, which this version can't restore; restore the \
                 backup with the program that made it, or load the data of that replica set with `pbm export --replset` and \
                 mongorestore",
                part.name
            ));
        }
        let id = backup.shard_remap.get(&part.name).unwrap_or(&part.name);
        pairs.push((id.clone(), member.id.clone()));
        places.insert(part.name.clone(), member.id.clone());
    }
    // The leader publishes every step, so it must take part.
    let leads = |rs: &String| !cluster.sharded || cluster.members[rs].config;
    if problems.is_empty() && !parts.keys().any(leads) {
        problems.push("the backup has no part for the config servers of this cluster".to_owned());
    }
    if problems.is_empty() { Ok(Participants { parts, ids: ids(pairs), places }) } else { Err(problems) }
}

/// Reads the operator's mapping from a replica set of the backup to one of the cluster.
pub(in crate::restore) fn mapping(map: &Document) -> anyhow::Result<BTreeMap<String, String>> {
    let pairs = map.iter().map(|(from, to)| {
        let to = to.as_str().with_context(|| format!("the mapping of replica set '{from}' is not a name"))?;
        Ok((from.clone(), to.to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topo::cluster::Member;
    use serde_json::json;

    fn cluster(members: &[(&str, &str)]) -> Cluster {
        let member = |(rs, id): &(&str, &str)| {
            ((*rs).to_owned(), Member { id: (*id).to_owned(), hosts: Vec::new(), config: *id == "config" })
        };
        Cluster { sharded: true, members: members.iter().map(member).collect() }
    }

    fn backup() -> BackupMeta {
        let replsets = json!([{ "name": "cfgrs", "iscs": true }, { "name": "rs1" }, { "name": "rs2" }]);
        let remap = json!({ "cfgrs": "config", "rs2": "shardB" });
        serde_json::from_value(json!({
            "name": "b", "pbm_version": "2.15.0", "replsets": replsets, "shardRemap": remap,
        }))
        .expect("a backup")
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn names_and_ids_may_differ() {
        let same = cluster(&[("cfgrs", "config"), ("rs1", "rs1"), ("rs2", "shardB"), ("rs9", "rs9")]);
        let found = participants(&backup(), &same, &BTreeMap::new()).expect("it fits");
        assert_eq!(found.parts.keys().collect::<Vec<_>>(), ["cfgrs", "rs1", "rs2"]);
        assert!(found.ids.is_empty());

        let other = cluster(&[("ncfg", "config"), ("nrsX", "nrsX"), ("nrsY", "two")]);
        let names = map(&[("cfgrs", "ncfg"), ("rs1", "nrsX"), ("rs2", "nrsY")]);
        let found = participants(&backup(), &other, &names).expect("it fits");
        assert_eq!(found.parts["nrsY"], "rs2");
        assert_eq!(found.ids, map(&[("rs1", "nrsX"), ("shardB", "two")]));
    }

    #[test]
    fn before_2_0_nothing_says_which_one_is_the_config_server() {
        let same = cluster(&[("cfgrs", "config"), ("rs1", "rs1"), ("rs2", "rs2")]);
        let mut old = backup();
        (old.pbm_version, old.replsets[0].iscs) = ("1.6.0".to_owned(), false);
        assert_eq!(participants(&old, &same, &BTreeMap::new()).expect("it fits").parts.len(), 3);
        old.pbm_version = "2.0.0".to_owned();
        assert!(
            participants(&old, &same, &BTreeMap::new()).is_err_and(|e| e[0].contains("'cfgrs' of the backup is none"))
        );
    }

    /// The original can back up such a cluster.
    #[test]
    fn config_servers_with_data_are_refused_by_the_backup_s_own_words() {
        let same = cluster(&[("cfgrs", "config"), ("rs1", "rs1"), ("rs2", "shardB")]);
        let mut backup = backup();
        backup.replsets[0].configshard = true;
        let said = participants(&backup, &same, &map(&[])).expect_err("refused");
        assert!(said.len() == 1 && said[0].contains("'cfgrs' of the backup was config server and shard"), "{said:?}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let fewer = cluster(&[("cfgrs", "config"), ("rs1", "rs1")]);
        let problems = participants(&backup(), &fewer, &BTreeMap::new()).expect_err("one is missing");
        assert!(problems[0].contains("'rs2'") && problems.len() == 1, "{problems:?}");
        let twice = participants(&backup(), &fewer, &map(&[("rs2", "rs1")])).expect_err("two for one");
        assert!(twice[0].contains("both go to 'rs1'"), "{twice:?}");
        let role = participants(&backup(), &cluster(&[("cfgrs", "a"), ("rs1", "config"), ("rs2", "c")]), &map(&[]));
        assert_eq!(role.expect_err("roles").len(), 2);
        let unknown = participants(&backup(), &fewer, &map(&[("rs2", "rs1"), ("x", "rs1")])).expect_err("no x");
        assert!(unknown[0].contains("'x'"), "{unknown:?}");
    }
}
