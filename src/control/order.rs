//! A command with all of its parameters. Only this module translates between an [`Order`] and the document in
//! `admin.pbmCmd`, in which every part is optional (docs/format.md C.1).

use crate::model::{
    command::{
        BackupCmd, CleanupCmd, CleanupFailedCmd, Command, DeleteCmd, DeletePitrCmd, ProfileCmd, ReplayCmd, RestoreCmd,
        ResyncCmd, name,
    },
    config::StorageConf,
};
use bson::oid::ObjectId;

/// A request from the command line to the agents.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "an order is moved a few times in its life")]
pub enum Order {
    Backup(BackupCmd),
    /// Cancel the running backups.
    CancelBackup,
    Restore(RestoreCmd),
    /// Replay a range of PITR chunks.
    Replay(ReplayCmd),
    /// Read the content of a storage again, by default of the main storage.
    Resync(ResyncCmd),
    /// Delete backups.
    Delete(DeleteCmd),
    /// Delete PITR chunks.
    DeletePitr(DeletePitrCmd),
    /// Delete old backups and chunks.
    Cleanup(CleanupCmd),
    /// List what failed backups left behind, or delete it.
    CleanupFailed(CleanupFailedCmd),
    /// Store a profile. A profile of the same name is replaced.
    AddProfile {
        name: String,
        storage: StorageConf,
    },
    /// Remove a profile, and its backups from the list of backups.
    RemoveProfile {
        name: String,
    },
}

/// Why a document in `admin.pbmCmd` is not an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this agent does not know the command '{0}'; the command line is newer, or of another edition")]
    Unknown(String),
    #[error("the {0} command has no details")]
    NoDetails(&'static str),
    #[error("the command names no profile")]
    NoProfile,
}

impl Order {
    /// Returns the name of the command. It is the event in the log and, except for `cleanupFailed`, the type of the
    /// lock.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            Self::Backup(_) => name::BACKUP,
            Self::CancelBackup => name::CANCEL_BACKUP,
            Self::Restore(_) => name::RESTORE,
            Self::Replay(_) => name::REPLAY,
            Self::Resync(_) => name::RESYNC,
            Self::Delete(_) => name::DELETE,
            Self::DeletePitr(_) => name::DELETE_PITR,
            Self::Cleanup(_) => name::CLEANUP,
            Self::CleanupFailed(_) => name::CLEANUP_FAILED,
            Self::AddProfile { .. } => name::ADD_PROFILE,
            Self::RemoveProfile { .. } => name::REMOVE_PROFILE,
        }
    }

    /// Returns the name of the backup, restore or profile that the order concerns, or an empty text. It is the object
    /// of the order's log lines.
    #[must_use]
    pub fn object(&self) -> &str {
        match self {
            Self::Backup(it) => &it.name,
            Self::Restore(it) => &it.name,
            Self::Replay(it) => &it.name,
            Self::AddProfile { name, .. } | Self::RemoveProfile { name } => name,
            Self::CancelBackup
            | Self::Resync(_)
            | Self::Delete(_)
            | Self::DeletePitr(_)
            | Self::Cleanup(_)
            | Self::CleanupFailed(_) => "",
        }
    }

    /// Returns the document of the order, with a new OPID. `ts` is the time of sending, in unix seconds.
    pub(super) fn into_command(self, ts: i64) -> Command {
        let empty = Command {
            id: ObjectId::new(),
            cmd: self.event().to_owned(),
            backup: None,
            restore: None,
            replay: None,
            resync: None,
            delete: None,
            delete_pitr: None,
            cleanup: None,
            cleanup_failed: None,
            profile: None,
            ts,
            until: None,
        };
        match self {
            Self::Backup(it) => Command { backup: Some(it), ..empty },
            Self::CancelBackup => empty,
            Self::Restore(it) => Command { restore: Some(it), ..empty },
            Self::Replay(it) => Command { replay: Some(it), ..empty },
            // For the main storage, the original sends no details.
            Self::Resync(it) => Command { resync: (it != ResyncCmd::default()).then_some(it), ..empty },
            Self::Delete(it) => Command { delete: Some(it), ..empty },
            Self::DeletePitr(it) => Command { delete_pitr: Some(it), ..empty },
            Self::Cleanup(it) => Command { cleanup: Some(it), ..empty },
            Self::CleanupFailed(it) => Command { cleanup_failed: Some(it), ..empty },
            Self::AddProfile { name, storage } => {
                Command { profile: Some(ProfileCmd { name, profile: true, storage }), ..empty }
            }
            Self::RemoveProfile { name } => {
                Command { profile: Some(ProfileCmd { name, ..ProfileCmd::default() }), ..empty }
            }
        }
    }
}

impl TryFrom<Command> for Order {
    type Error = Refused;

    fn try_from(command: Command) -> Result<Self, Refused> {
        /// Builds the order from the part of the document that it requires.
        fn part<T>(it: Option<T>, name: &'static str, order: impl FnOnce(T) -> Order) -> Result<Order, Refused> {
            it.map(order).ok_or(Refused::NoDetails(name))
        }
        match command.cmd.as_str() {
            name::BACKUP => part(command.backup, name::BACKUP, Self::Backup),
            name::CANCEL_BACKUP => Ok(Self::CancelBackup),
            name::RESTORE => part(command.restore, name::RESTORE, Self::Restore),
            name::REPLAY => part(command.replay, name::REPLAY, Self::Replay),
            name::RESYNC => Ok(Self::Resync(command.resync.unwrap_or_default())),
            name::DELETE => part(command.delete, name::DELETE, Self::Delete),
            name::DELETE_PITR => part(command.delete_pitr, name::DELETE_PITR, Self::DeletePitr),
            name::CLEANUP => part(command.cleanup, name::CLEANUP, Self::Cleanup),
            name::CLEANUP_FAILED => part(command.cleanup_failed, name::CLEANUP_FAILED, Self::CleanupFailed),
            name::ADD_PROFILE => {
                let ProfileCmd { name, storage, .. } = command.profile.ok_or(Refused::NoProfile)?;
                Ok(Self::AddProfile { name, storage })
            }
            name::REMOVE_PROFILE => {
                let ProfileCmd { name, .. } = command.profile.ok_or(Refused::NoProfile)?;
                Ok(Self::RemoveProfile { name })
            }
            other => Err(Refused::Unknown(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Document, doc};

    /// Every command with its document, without `_id`, `ts` and `until`, and with the object of its log lines.
    fn documents() -> Vec<(Document, &'static str)> {
        let backup = doc! { "type": "logical", "base": false, "name": "b", "compression": "s2" };
        let restore = doc! {
            "name": "r", "backupName": "b", "fallbackEnabled": Bson::Null, "allowPartlyDone": Bson::Null,
            "external": false, "extConf": Bson::Null, "extTS": bson::Timestamp { time: 0, increment: 0 }, "exit": false,
        };
        let time = bson::Timestamp { time: 5, increment: 1 };
        let storage = doc! { "type": "filesystem", "filesystem": { "path": "/b" } };
        vec![
            (doc! { "cmd": "backup", "backup": backup }, "b"),
            (doc! { "cmd": "cancelBackup" }, ""),
            (doc! { "cmd": "restore", "restore": restore }, "r"),
            (doc! { "cmd": "replay", "replay": { "name": "o", "start": time, "end": time } }, "o"),
            (doc! { "cmd": "resync" }, ""),
            (doc! { "cmd": "resync", "resync": { "name": "p", "clear": true } }, ""),
            (doc! { "cmd": "delete", "delete": { "backup": "b", "olderthan": 0_i64, "type": "", "profile": "" } }, ""),
            (doc! { "cmd": "deletePitr", "deletePitr": { "olderthan": 5_i64 } }, ""),
            (doc! { "cmd": "cleanup", "cleanup": { "olderThan": time, "profile": "" } }, ""),
            (
                doc! { "cmd": "cleanupFailed", "cleanupFailed": {
                    "profile": "", "look": true, "backups": [], "orphans": [],
                } },
                "",
            ),
            (doc! { "cmd": "addConfigProfile", "profile": { "name": "p", "profile": true, "storage": storage } }, "p"),
            (
                doc! { "cmd": "removeConfigProfile", "profile": {
                    "name": "p", "profile": false, "storage": { "type": "" },
                } },
                "p",
            ),
        ]
    }

    fn read(document: &Document) -> Result<Order, Refused> {
        let mut document = document.clone();
        document.extend(doc! { "_id": ObjectId::new(), "ts": 7_i64 });
        let command: Command = bson::deserialize_from_document(document).expect("a command");
        command.try_into()
    }

    fn written(order: Order) -> Document {
        let mut document = bson::serialize_to_document(&order.into_command(7)).expect("encode");
        assert_eq!(document.remove("ts"), Some(Bson::Int64(7)));
        assert!(document.remove("_id").is_some_and(|id| id.as_object_id().is_some()));
        document
    }

    #[test]
    fn every_command_is_read_and_written_alike() {
        for (document, object) in documents() {
            let order = read(&document).unwrap_or_else(|why| panic!("{document}: {why}"));
            let name = document.get_str("cmd").expect("a name");
            assert_eq!((order.event(), order.object()), (name, object), "{document}");
            assert_eq!(written(order), document);
        }
    }

    #[test]
    fn commands_without_their_part_are_refused_by_name() {
        for (document, _) in documents() {
            let name = document.get_str("cmd").expect("a name");
            let expected = match name {
                "cancelBackup" | "resync" => continue,
                "addConfigProfile" | "removeConfigProfile" => "the command names no profile".to_owned(),
                _ => format!("the {name} command has no details"),
            };
            // The part of another command does not replace the missing one.
            for other in [doc! {}, doc! { "resync": {} }] {
                let mut incomplete = doc! { "cmd": name };
                incomplete.extend(other);
                assert_eq!(read(&incomplete).map_err(|why| why.to_string()), Err(expected.clone()), "{incomplete}");
            }
        }
    }

    #[test]
    fn unknown_commands_are_refused_by_name() {
        for name in ["defrost", "Backup", "pitr", ""] {
            let refused = read(&doc! { "cmd": name, "backup": { "name": "b" } }).map_err(|why| why.to_string());
            let expected = format!(
                "this agent does not know the command '{name}'; the command line is newer, or of another edition"
            );
            assert_eq!(refused, Err(expected));
        }
    }

    #[test]
    fn a_resync_without_details_is_one_of_the_main_storage() {
        assert_eq!(read(&doc! { "cmd": "resync", "resync": {} }), Ok(Order::Resync(ResyncCmd::default())));
        assert_eq!(written(Order::Resync(ResyncCmd::default())), doc! { "cmd": "resync" });
    }
}
