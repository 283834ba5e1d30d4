//! `admin.pbmLog` (docs/format.md C.11).

use bson::{Timestamp, oid::ObjectId};
use serde::{Deserialize, Serialize};

/// Severity as stored in `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Severity {
    Fatal = 0,
    Error = 1,
    Warning = 2,
    Info = 3,
    Debug = 4,
}

impl Severity {
    /// One letter, as in printed log lines and `pbm logs --severity`.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Fatal => 'F',
            Self::Error => 'E',
            Self::Warning => 'W',
            Self::Info => 'I',
            Self::Debug => 'D',
        }
    }
}

/// The last line of a deletion, a clean-up or a change of a profile that ended well. Command lines wait for it.
pub const DONE: &str = "done";
/// The last line of a resync that ended well. The original's command line waits for exactly this word (docs/format.md
/// C.11.1).
pub const SUCCEED: &str = "succeed";

/// One log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    #[serde(rename = "_id", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ObjectId>,
    /// Unix seconds and the nanoseconds beside them.
    pub ts: i64,
    #[serde(default)]
    pub ns: i64,
    /// Offset of the agent's zone, seconds east of UTC.
    #[serde(default)]
    pub tz: i64,
    pub s: i32,
    #[serde(default)]
    pub rs: String,
    #[serde(default)]
    pub node: String,
    /// Event: a command name, `pitr`, `agentCheckup` or empty.
    #[serde(default)]
    pub e: String,
    /// Object: the name of a backup or restore.
    #[serde(default)]
    pub eobj: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ep: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub opid: String,
    pub msg: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents and command lines of other versions know them.
    #[test]
    fn the_last_words_of_an_operation_never_change() {
        assert_eq!((DONE, SUCCEED), ("done", "succeed"));
    }
}
