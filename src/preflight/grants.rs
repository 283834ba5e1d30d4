//! Pure: what the user of `pbm` and of the agents must be allowed to do, and what of it is missing (docs/features.md 21.8).

use super::Operation;
use crate::mongo::capabilities::{Capabilities, Capability};
use crate::mongo::login::{Login, User};

/// What the user needs on every replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// `readWrite` on `admin`.
    ReadWrite,
    Backup,
    ClusterMonitor,
    Restore,
    /// `issueDirectShardOperations` on the cluster: where there are several shards, their data is only open to it
    /// ([`Asked::direct_shards`]).
    DirectShards,
    /// `anyAction` on `anyResource`, which no role of the server but `__system` has.
    AnyAction,
}

/// What depends on the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// The members of this cluster refuse direct access without a right of its own.
    pub direct_shards: bool,
}

impl Asked {
    /// For a server that can do this, in a cluster with so many shards.
    #[must_use]
    pub fn of(able: Option<Capabilities>, shards: usize) -> Self {
        Self { direct_shards: shards > 1 && able.is_some_and(|able| able.has(Capability::DirectShardChecks)) }
    }
}

/// The role that is made for [`Grant::AnyAction`].
const ANY_ACTION: &str = "pbmAnyAction";

impl Grant {
    pub const ALL: [Self; 6] =
        [Self::ReadWrite, Self::Backup, Self::ClusterMonitor, Self::Restore, Self::DirectShards, Self::AnyAction];

    /// As people call it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::ReadWrite => "role readWrite on admin",
            Self::Backup => "role backup",
            Self::ClusterMonitor => "role clusterMonitor",
            Self::Restore => "role restore",
            Self::DirectShards => "role directShardOperations",
            Self::AnyAction => "anyAction on anyResource",
        }
    }

    /// The roles of `admin` that have it.
    const fn roles(self) -> &'static [&'static str] {
        match self {
            Self::ReadWrite => &["readWrite", "readWriteAnyDatabase", "dbOwner", "root", "__system"],
            Self::Backup => &["backup", "root", "__system"],
            Self::ClusterMonitor => &["clusterMonitor", "clusterAdmin", "root", "__system"],
            Self::Restore => &["restore", "root", "__system"],
            Self::DirectShards => &["directShardOperations", "root", "__system"],
            Self::AnyAction => &["__system"],
        }
    }

    fn is_held(self, login: &Login) -> bool {
        let by_role = login.roles.iter().any(|role| role.db == "admin" && self.roles().contains(&role.role.as_str()));
        by_role
            || match self {
                Self::AnyAction => may_do_anything(login),
                Self::DirectShards => may_do_anything(login) || may_work_on_shards(login),
                _ => false,
            }
    }
}

/// `anyAction` on `anyResource`: nothing is forbidden, whichever roles are missing.
#[must_use]
pub fn may_do_anything(login: &Login) -> bool {
    login.privileges.iter().any(|it| it.resource.any_resource && it.actions.iter().any(|action| action == "anyAction"))
        || login.roles.iter().any(|role| role.role == "__system")
}

/// `issueDirectShardOperations`, whichever role gave it.
fn may_work_on_shards(login: &Login) -> bool {
    let is = |action: &String| action == "issueDirectShardOperations";
    login.privileges.iter().any(|it| it.resource.cluster && it.actions.iter().any(is))
}

/// What is missing. Nothing where nobody had to log in.
#[must_use]
pub fn missing(login: &Login, asked: Asked) -> Vec<Grant> {
    if login.users.is_empty() {
        return Vec::new();
    }
    let is_asked = |grant: &Grant| *grant != Grant::DirectShards || asked.direct_shards;
    Grant::ALL.into_iter().filter(|grant| is_asked(grant) && !grant.is_held(login)).collect()
}

/// What is missing so that operations fail: nothing does that with `anyAction`.
#[must_use]
pub fn lacking(login: &Login, asked: Asked) -> Vec<Grant> {
    if may_do_anything(login) { Vec::new() } else { missing(login, asked) }
}

/// Without what of it an operation fails for certain.
#[must_use]
pub const fn needed(operation: Operation) -> &'static [Grant] {
    match operation {
        Operation::Backup | Operation::ProfileBackup => {
            &[Grant::ReadWrite, Grant::Backup, Grant::ClusterMonitor, Grant::DirectShards]
        }
        Operation::Restore | Operation::Replay => &Grant::ALL,
    }
}

/// The command that grants it, for a shell.
#[must_use]
pub fn command(missing: &[Grant], user: Option<&User>) -> String {
    let role = |grant: &Grant| match grant {
        Grant::ReadWrite => "readWrite",
        Grant::Backup => "backup",
        Grant::ClusterMonitor => "clusterMonitor",
        Grant::Restore => "restore",
        Grant::DirectShards => "directShardOperations",
        Grant::AnyAction => ANY_ACTION,
    };
    let roles: Vec<String> = missing.iter().map(|it| format!("{{role: \"{}\", db: \"admin\"}}", role(it))).collect();
    let (db, name) = user.map_or(("admin", "USER"), |user| (user.db.as_str(), user.user.as_str()));
    let grant = format!("db.getSiblingDB(\"{db}\").grantRolesToUser({name:?}, [{}])", roles.join(", "));
    if !missing.contains(&Grant::AnyAction) {
        return grant;
    }
    format!(
        "db.getSiblingDB(\"admin\").createRole({{role: \"{ANY_ACTION}\", privileges: [{{resource: {{anyResource: true}}, \
         actions: [\"anyAction\"]}}], roles: []}}) unless it exists, then {grant}"
    )
}

/// The message of an agent about missing rights of its user, with the same remedy as in `pbm doctor`.
#[must_use]
pub fn complaint(login: &Login, asked: Asked) -> Option<String> {
    let lacking = lacking(login, asked);
    let titles: Vec<&str> = lacking.iter().map(|grant| grant.title()).collect();
    let remedy = || command(&lacking, login.users.first());
    (!lacking.is_empty()).then(|| format!("the user of this agent lacks {}: run {}", titles.join(", "), remedy()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mongo::login::{Privilege, Resource, Role};

    /// A user with these roles of `admin`, and perhaps the privilege.
    pub fn with(roles: &[&str], any_action: bool) -> Login {
        let role = |name: &&str| Role { role: (*name).to_owned(), db: "admin".to_owned() };
        let resource = Resource { any_resource: true, ..Resource::default() };
        let any = Privilege { resource: resource.clone(), actions: vec!["anyAction".to_owned()] };
        let find = Privilege { resource, actions: vec!["find".to_owned()] };
        Login {
            users: vec![User { user: "u".into(), db: "admin".into() }],
            roles: roles.iter().map(role).collect(),
            privileges: if any_action { vec![find, any] } else { vec![find] },
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        use Grant::{AnyAction, Backup, ClusterMonitor, ReadWrite, Restore};
        let all = ["readWrite", "backup", "clusterMonitor", "restore"];
        for (roles, any, wanted) in [
            (&all[..], true, &[][..]),
            (&all, false, &[AnyAction]),
            (&all[..3], true, &[Restore]),
            (&["root"], false, &[AnyAction]),
            (&["__system"], false, &[]),
            (&["clusterAdmin", "readWriteAnyDatabase"], false, &[Backup, Restore, AnyAction]),
            (&[], false, &[ReadWrite, Backup, ClusterMonitor, Restore, AnyAction]),
        ] {
            let login = with(roles, any);
            assert_eq!(missing(&login, Asked::default()), wanted, "{roles:?}");
            assert_eq!(lacking(&login, Asked::default()), if any { &[][..] } else { wanted }, "{roles:?}");
        }
        assert_eq!(missing(&Login::default(), Asked::default()), [], "nobody had to log in");
        let mut elsewhere = with(&all, true);
        elsewhere.roles[0].db = "shop".into();
        assert_eq!(missing(&elsewhere, Asked::default()), [ReadWrite]);
    }

    #[test]
    fn shards_of_newer_servers_ask_for_a_right_of_their_own() {
        let able = |server: &str, fcv: &str| Asked::of(Capabilities::read(server, fcv), 2);
        let asked = able("8.0.4", "8.0");
        for (none, why) in [
            (Asked::of(Capabilities::read("8.0.4", "8.0"), 1), "one shard"),
            (Asked::of(None, 2), "an unknown server"),
            (able("7.0.16", "7.0"), "it only logs it"),
            (able("8.0.4", "7.0"), "an old feature compatibility version"),
        ] {
            assert!(asked.direct_shards && !none.direct_shards, "{why}");
        }
        let backup = ["readWrite", "backup", "clusterMonitor"];
        let lacks = |login: &Login| missing(login, asked).contains(&Grant::DirectShards);
        assert!(lacks(&with(&backup, false)) && !lacks(&with(&backup, true)) && !lacks(&with(&["root"], false)));
        assert!(!lacks(&with(&["backup", "directShardOperations"], false)));
        let mut own = with(&backup, false);
        let resource = Resource { cluster: true, ..Resource::default() };
        own.privileges.push(Privilege { resource, actions: vec!["issueDirectShardOperations".to_owned()] });
        assert!(!lacks(&own));
        let said = complaint(&with(&backup, false), asked).expect("a complaint");
        assert!(said.contains("{role: \"directShardOperations\", db: \"admin\"}"), "{said}");
        for operation in [Operation::Backup, Operation::ProfileBackup, Operation::Restore, Operation::Replay] {
            assert!(needed(operation).contains(&Grant::DirectShards), "{operation:?}");
        }
    }

    #[test]
    fn the_command_names_the_user_and_his_database() {
        let user = User { user: "CN=a".into(), db: "$external".into() };
        let said = command(&[Grant::Restore, Grant::AnyAction], Some(&user));
        for part in [
            "createRole({role: \"pbmAnyAction\"",
            "getSiblingDB(\"$external\").grantRolesToUser(\"CN=a\"",
            "\"restore\"",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!command(&[Grant::Backup], None).contains("createRole"));
    }
}
