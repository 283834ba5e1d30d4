//! Pure: what the user of `pbm` and of the agents must be allowed to do, and what of it is missing (docs/features.md 21.8).

use super::Operation;
use crate::mongo::login::{Login, User};

/// What the user needs on every replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// `readWrite` on `admin`.
    ReadWrite,
    Backup,
    ClusterMonitor,
    Restore,
    /// `anyAction` on `anyResource`, which no role of the server but `__system` has.
    AnyAction,
}

/// The role that is made for [`Grant::AnyAction`].
const ANY_ACTION: &str = "pbmAnyAction";

impl Grant {
    pub const ALL: [Self; 5] = [Self::ReadWrite, Self::Backup, Self::ClusterMonitor, Self::Restore, Self::AnyAction];

    /// As people call it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::ReadWrite => "role readWrite on admin",
            Self::Backup => "role backup",
            Self::ClusterMonitor => "role clusterMonitor",
            Self::Restore => "role restore",
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
            Self::AnyAction => &["__system"],
        }
    }

    fn is_held(self, login: &Login) -> bool {
        let by_role = login.roles.iter().any(|role| role.db == "admin" && self.roles().contains(&role.role.as_str()));
        by_role || (self == Self::AnyAction && may_do_anything(login))
    }
}

/// `anyAction` on `anyResource`: nothing is forbidden, whichever roles are missing.
#[must_use]
pub fn may_do_anything(login: &Login) -> bool {
    login.privileges.iter().any(|it| it.resource.any_resource && it.actions.iter().any(|action| action == "anyAction"))
        || login.roles.iter().any(|role| role.role == "__system")
}

/// What is missing. Nothing where nobody had to log in.
#[must_use]
pub fn missing(login: &Login) -> Vec<Grant> {
    if login.users.is_empty() {
        return Vec::new();
    }
    Grant::ALL.into_iter().filter(|grant| !grant.is_held(login)).collect()
}

/// What is missing so that operations fail: nothing does that with `anyAction`.
#[must_use]
pub fn lacking(login: &Login) -> Vec<Grant> {
    if may_do_anything(login) { Vec::new() } else { missing(login) }
}

/// Without what of it an operation fails for certain.
#[must_use]
pub const fn needed(operation: Operation) -> &'static [Grant] {
    match operation {
        Operation::Backup | Operation::ProfileBackup => &[Grant::ReadWrite, Grant::Backup, Grant::ClusterMonitor],
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
pub fn complaint(login: &Login) -> Option<String> {
    let lacking = lacking(login);
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
        let resource = Resource { any_resource: true };
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
            assert_eq!(missing(&login), wanted, "{roles:?}");
            assert_eq!(lacking(&login), if any { &[][..] } else { wanted }, "{roles:?}");
        }
        assert_eq!(missing(&Login::default()), [], "nobody had to log in");
        let mut elsewhere = with(&all, true);
        elsewhere.roles[0].db = "shop".into();
        assert_eq!(missing(&elsewhere), [ReadWrite]);
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
