//! Does a connection wait for the majority, and does the replica set have one?
//!
//! Reads and writes wait for the majority unless the connection string says otherwise (see [`mod@super::connect`]). With
//! `w=1&readConcernLevel=local`, reads and writes for backups don't wait for other members: in a replica set of a primary, a
//! secondary and an arbiter they go on while the secondary is down. Data that only one member has confirmed can be lost with
//! that member; whoever sets these options accepts that.

use super::admin::{self, ReplStatus, SetConfig};
use anyhow::{Result, bail};
use bson::{Document, doc};
use mongodb::{
    Client, Database,
    options::{Acknowledgment, ReadConcern, ReadConcernLevel, WriteConcern},
};
use std::time::Duration;

/// The longest time that one of our writes waits for the members that have to confirm it, unless the connection string says
/// otherwise. No write waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Does the connection string ask for the majority to confirm writes? It may also give a number of members that amounts to the
/// majority: see [`must_confirm`].
#[must_use]
pub fn is_asked_for(client: &Client) -> bool {
    numbered(client.write_concern()).is_none()
}

fn numbered(concern: Option<&WriteConcern>) -> Option<u32> {
    match concern.and_then(|concern| concern.w.as_ref()) {
        Some(Acknowledgment::Nodes(members)) => Some(*members),
        _ => None,
    }
}

/// Must the majority confirm a write before the write counts? Not if the connection string asks for fewer members.
///
/// # Errors
/// The node does not answer how many members are the majority.
pub async fn must_confirm(client: &Client) -> Result<bool> {
    let Some(members) = numbered(client.write_concern()) else { return Ok(true) };
    let status = admin::repl_status(client).await?;
    Ok(status.write_majority_count.is_none_or(|needed| f64::from(members) >= needed))
}

/// The read concern level for a node: `majority`, or `local` if the connection string says so.
#[must_use]
pub fn read_level(concern: Option<&ReadConcern>) -> &'static str {
    match concern.map(|concern| &concern.level) {
        Some(ReadConcernLevel::Local | ReadConcernLevel::Available) => "local",
        _ => "majority",
    }
}

/// The write concern of `db`, to be added to commands: the driver does not add it by itself.
#[must_use]
pub fn write_concern(db: &Database) -> Document {
    let concern = db.write_concern();
    let mut document = match concern.and_then(|concern| concern.w.as_ref()) {
        Some(Acknowledgment::Nodes(members)) => doc! { "w": i64::from(*members) },
        Some(Acknowledgment::Custom(tag)) => doc! { "w": tag },
        _ => doc! { "w": "majority" },
    };
    let patience = concern.and_then(|concern| concern.w_timeout).unwrap_or(PATIENCE);
    document.insert("wtimeout", i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
    document
}

/// Returns the answer to a command with [`write_concern`].
///
/// # Errors
/// Too few members have confirmed the command's writes within the time limit.
pub async fn confirmed(client: &Client, answer: Document) -> Result<Document> {
    let Ok(missed) = answer.get_document("writeConcernError") else { return Ok(answer) };
    let said = missed.get_str("errmsg").unwrap_or("no reason is told").to_owned();
    match lack(client).await {
        Some(why) => bail!("too few members confirmed the write: {why}"),
        None => bail!("too few members confirmed the write: {said}"),
    }
}

/// Why the majority of the replica set behind `client` confirms nothing; `None` if it does confirm, or if the user may not ask.
pub async fn lack(client: &Client) -> Option<String> {
    let (status, config) = tokio::join!(admin::repl_status(client), admin::set_config(client));
    missing(&status.ok()?, &config.ok()?)
}

/// Names, for people, the voting members that can't finish an index build in their present state.
pub async fn who_builds_no_indexes(client: &Client) -> Option<String> {
    let (status, config) = tokio::join!(admin::repl_status(client), admin::set_config(client));
    no_builders(&status.ok()?, &config.ok()?)
}

fn no_builders(status: &ReplStatus, config: &SetConfig) -> Option<String> {
    let voting = config.members.iter().filter(|member| member.votes > 0.0 && !member.arbiter_only);
    let mut why = Vec::new();
    for member in voting {
        let seen = status.members.iter().find(|seen| seen.name == member.host);
        if member.build_indexes == Some(false) {
            why.push(format!("{} builds no indexes", member.host));
        } else if !seen.is_some_and(|seen| seen.health > 0.0) {
            why.push(format!("{} is down", member.host));
        }
    }
    (!why.is_empty()).then(|| why.join(", "))
}

/// Pure: says that too few voting members with data are up, and which of them are down. `None` if enough are up.
#[must_use]
pub fn missing(status: &ReplStatus, config: &SetConfig) -> Option<String> {
    let votes = config.members.iter().filter(|member| member.votes > 0.0);
    let writable: Vec<&str> =
        votes.clone().filter(|member| !member.arbiter_only).map(|member| member.host.as_str()).collect();
    let needed = status.write_majority_count.unwrap_or_else(|| {
        let majority = votes.count() / 2 + 1;
        f64::from(u32::try_from(majority.min(writable.len())).unwrap_or(u32::MAX))
    });
    let state_of = |host: &str| status.members.iter().find(|member| member.name == host);
    let (up, down): (Vec<&str>, Vec<&str>) = writable.iter().partition(|host| {
        // A member in maintenance mode (RECOVERING) still replicates.
        state_of(host).is_some_and(|member| member.health > 0.0 && member.state.replicates())
    });
    let count = f64::from(u32::try_from(up.len()).unwrap_or(u32::MAX));
    (count < needed).then(|| {
        let down: Vec<String> = down
            .iter()
            .map(|host| {
                let state = state_of(host).map_or("", |member| member.state_str.as_str());
                if state.is_empty() { (*host).to_owned() } else { format!("{host} ({state})") }
            })
            .collect();
        format!(
            "no majority: {} of {} voting members with data {} up, {needed} are needed; down: {}",
            up.len(),
            writable.len(),
            if up.len() == 1 { "is" } else { "are" },
            down.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(states: &[(&str, f64, i32)], needed: Option<i32>) -> ReplStatus {
        let members: Vec<Document> = states
            .iter()
            .map(|(name, health, state)| doc! { "name": name, "health": health, "state": state, "stateStr": "S" })
            .collect();
        let mut document = doc! { "set": "rs0", "members": members };
        if let Some(needed) = needed {
            document.insert("writeMajorityCount", needed);
        }
        bson::deserialize_from_document(document).expect("a status")
    }

    fn config(members: &[(&str, i32, bool)]) -> SetConfig {
        let members: Vec<Document> = members
            .iter()
            .map(|(host, votes, arbiter)| doc! { "host": host, "votes": votes, "arbiterOnly": arbiter })
            .collect();
        bson::deserialize_from_document(doc! { "members": members }).expect("a configuration")
    }

    #[test]
    fn too_few_members_are_counted_and_named() {
        let psa = config(&[("p", 1, false), ("s", 1, false), ("a", 1, true)]);
        let up = [("p", 1.0, 1), ("s", 1.0, 2), ("a", 1.0, 7)];
        assert_eq!(missing(&status(&up, Some(2)), &psa), None);
        let down = [("p", 1.0, 1), ("s", 0.0, 8), ("a", 1.0, 7)];
        let text = "no majority: 1 of 2 voting members with data is up, 2 are needed; down: s (S)";
        assert_eq!(missing(&status(&down, Some(2)), &psa).as_deref(), Some(text));
        assert_eq!(missing(&status(&down, None), &psa).as_deref(), Some(text), "counted from the configuration");
        let startup = [("p", 1.0, 1), ("s", 1.0, 5), ("a", 1.0, 7)];
        assert!(missing(&status(&startup, Some(2)), &psa).is_some(), "a member in initial sync confirms nothing");
        // A member without a vote does not count; two of three are enough.
        let pssn = config(&[("p", 1, false), ("s", 1, false), ("t", 1, false), ("n", 0, false)]);
        let two = [("p", 1.0, 1), ("s", 0.0, 8), ("t", 1.0, 3), ("n", 0.0, 8)];
        assert_eq!(missing(&status(&two, Some(2)), &pssn), None);
        let paa = config(&[("p", 1, false), ("a", 1, true), ("b", 1, true)]);
        assert_eq!(missing(&status(&[("p", 1.0, 1)], None), &paa), None);
    }

    #[test]
    fn who_will_not_finish_an_index_build() {
        let all = [("p", 1.0, 1), ("s", 1.0, 2), ("a", 1.0, 7)];
        let mut psa = config(&[("p", 1, false), ("s", 1, false), ("a", 1, true), ("n", 0, false)]);
        assert_eq!(no_builders(&status(&all, None), &psa), None);
        psa.members[1].build_indexes = Some(false);
        assert_eq!(no_builders(&status(&all, None), &psa).as_deref(), Some("s builds no indexes"));
        psa.members[1].build_indexes = Some(true);
        let down = [("p", 1.0, 1), ("s", 0.0, 8), ("a", 1.0, 7)];
        assert_eq!(no_builders(&status(&down, None), &psa).as_deref(), Some("s is down"));
    }

    #[test]
    fn the_string_decides_what_is_waited_for() {
        assert_eq!(read_level(None), "majority");
        assert_eq!(read_level(Some(&ReadConcern::local())), "local");
        assert_eq!(read_level(Some(&ReadConcern::majority())), "majority");
        assert_eq!(numbered(Some(&WriteConcern::majority())), None);
        assert_eq!(numbered(Some(&WriteConcern::nodes(1))), Some(1));
    }
}
