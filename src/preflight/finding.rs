//! What a check says.

use serde::Serialize;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    Configuration,
    Connection,
    Authorization,
    Privileges,
    ServerVersion,
    Agent,
    AgentVersion,
    Storage,
    FreeSpace,
    Clock,
    Oplog,
    Slicing,
    Operations,
}

impl Check {
    /// As it is called everywhere.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Connection => "connection",
            Self::Authorization => "authorization",
            Self::Privileges => "privileges",
            Self::ServerVersion => "server version",
            Self::Agent => "agent",
            Self::AgentVersion => "agent version",
            Self::Storage => "storage",
            Self::FreeSpace => "free space",
            Self::Clock => "clock",
            Self::Oplog => "oplog",
            Self::Slicing => "slicing",
            Self::Operations => "operations",
        }
    }
}

impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Works; a person should know.
    Warning,
    /// Something does not work, or soon won't.
    Failure,
}

/// The result of one check on one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    /// A replica set, `replica set/host:port`, or `cluster`.
    pub subject: String,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The subject of what concerns everybody.
pub const CLUSTER: &str = "cluster";

/// The subject of a member.
#[must_use]
pub fn member(rs: &str, host: &str) -> String {
    format!("{rs}/{host}")
}

impl Finding {
    #[must_use]
    pub fn ok(check: Check, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check, subject: subject.into(), verdict: Verdict::Ok, detail: detail.into(), next: None }
    }

    #[must_use]
    pub fn warning(check: Check, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::ok(check, subject, detail) }
    }

    #[must_use]
    pub fn failure(check: Check, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failure, ..Self::ok(check, subject, detail) }
    }

    /// Adds the next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// For one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{} of {}: {}", self.check.name(), self.subject, self.detail)
    }
}
