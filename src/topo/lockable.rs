//! Pure: may a member be locked for a physical backup, or would that endanger its replica set?
//!
//! A locked member writes nothing, so it confirms no write and gives no vote, because a vote is a write. While it is locked, the
//! others must be able to do without it. If the primary is lost meanwhile, the lock ends at once (see `backup::physical`).

use crate::model::agent::Locking;
use crate::mongo::admin::{ConfigMember, ReplStatus, SetConfig};

/// What a lock of the member that reports `status` would mean for the others.
#[must_use]
pub fn locking(status: &ReplStatus, config: &SetConfig) -> Locking {
    let Some(me) = status.me().and_then(|me| config.members.iter().find(|it| it.host == me.name)) else {
        return Locking { e: "it is not in the configuration of its replica set".to_owned(), ..Locking::default() };
    };
    let others = || config.members.iter().filter(|it| it.host != me.host);
    let only = others().all(|it| it.arbiter_only);
    let votes = me.votes > 0.0;
    let e = if only || !votes { None } else { danger(status, config, me) };
    Locking { e: e.unwrap_or_default(), only, votes }
}

fn danger(status: &ReplStatus, config: &SetConfig, me: &ConfigMember) -> Option<String> {
    let is_up = |host: &str| {
        let member = status.members.iter().find(|member| member.name == host);
        member.is_some_and(|member| member.health > 0.0 && (member.state.replicates() || member.state.is_arbiter()))
    };
    let voters: Vec<&ConfigMember> = config.members.iter().filter(|it| it.votes > 0.0).collect();
    let others: Vec<&ConfigMember> =
        voters.iter().copied().filter(|it| it.host != me.host && is_up(&it.host)).collect();
    let majority = voters.len() / 2 + 1;
    let writable = voters.iter().filter(|it| !it.arbiter_only).count();
    let confirming = others.iter().filter(|it| !it.arbiter_only).count();
    let what = if others.len() < majority {
        format!("{} of {} votes would be left, and an election needs {majority}", others.len(), voters.len())
    } else if confirming < majority.min(writable) {
        format!(
            "{confirming} of {writable} voting members with data would be left, and writes with w: majority need {}",
            majority.min(writable)
        )
    } else {
        return None;
    };
    Some(format!(
        "it votes, and without it {what}; add a member without votes (priority: 0, votes: 0) for backups, or start the members \
         that are down"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc};

    /// Members as `host, votes, arbiter, state`; the first one reports.
    fn locking_of(members: &[(&str, i32, bool, i32)]) -> Locking {
        let status: Vec<Document> = members
            .iter()
            .enumerate()
            .map(|(n, (host, _, _, state))| {
                let health = if *state == 8 { 0.0 } else { 1.0 };
                doc! { "name": host, "health": health, "state": state, "stateStr": "S", "self": n == 0 }
            })
            .collect();
        let config: Vec<Document> = members
            .iter()
            .map(|(host, votes, arbiter, _)| doc! { "host": host, "votes": votes, "arbiterOnly": arbiter })
            .collect();
        let status = bson::deserialize_from_document(doc! { "set": "rs0", "members": status }).expect("a status");
        let config = bson::deserialize_from_document(doc! { "members": config }).expect("a configuration");
        locking(&status, &config)
    }

    #[test]
    fn the_others_must_do_without_the_locked_member() {
        for (members, danger) in [
            (&[("s", 1, false, 2), ("p", 1, false, 1), ("t", 1, false, 2)][..], None),
            (&[("s", 1, false, 2), ("p", 1, false, 1)], Some("1 of 2 votes would be left")),
            (&[("s", 1, false, 2), ("p", 1, false, 1), ("a", 1, true, 7)], Some("writes with w: majority need 2")),
            (&[("s", 1, false, 2), ("p", 1, false, 1), ("t", 1, false, 8)], Some("1 of 3 votes would be left")),
            // In maintenance or in its first synchronisation.
            (&[("s", 1, false, 2), ("p", 1, false, 1), ("t", 1, false, 3)], None),
            (&[("s", 1, false, 2), ("p", 1, false, 1), ("t", 1, false, 5)], Some("1 of 3 votes would be left")),
            (&[("s", 0, false, 2), ("p", 1, false, 1), ("a", 1, true, 7)], None),
            (&[("s", 0, false, 2), ("p", 1, false, 1)], None),
            (&[("s", 1, false, 2), ("p", 1, false, 1), ("t", 1, false, 2), ("n", 0, false, 2)], None),
        ] {
            let got = locking_of(members);
            assert!(!got.only);
            match danger {
                None => assert_eq!(got.e, "", "{members:?}"),
                Some(part) => assert!(got.e.contains(part) && got.e.contains("votes: 0"), "{members:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn the_only_member_with_data_is_known() {
        assert_eq!(locking_of(&[("p", 1, false, 1)]), Locking { e: String::new(), only: true, votes: true });
        assert!(locking_of(&[("p", 1, false, 1), ("a", 1, true, 7)]).only);
        assert!(!locking_of(&[("n", 0, false, 2), ("p", 1, false, 1)]).votes);
    }
}
