//! The states of replica-set members, which the server and `pbmAgents` give as numbers.

use serde::{Deserialize, Serialize};

/// The state of a member of a replica set. As a document it is the server's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "i32", into = "i32")]
pub enum MemberState {
    Primary,
    Secondary,
    /// It still replicates, but it is not read: in maintenance mode, for example.
    Recovering,
    /// Nobody knows it.
    Unknown,
    Arbiter,
    /// Starting, down, rolling back or removed.
    Other(i32),
}

impl MemberState {
    /// Can data be read from the member?
    #[must_use]
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Primary | Self::Secondary)
    }

    #[must_use]
    pub fn is_arbiter(self) -> bool {
        self == Self::Arbiter
    }

    /// Does the member take part in replication?
    #[must_use]
    pub fn replicates(self) -> bool {
        self.is_readable() || self == Self::Recovering
    }
}

/// The number 0, as where a document has no state.
impl Default for MemberState {
    fn default() -> Self {
        Self::from(0)
    }
}

impl From<i32> for MemberState {
    fn from(number: i32) -> Self {
        match number {
            1 => Self::Primary,
            2 => Self::Secondary,
            3 => Self::Recovering,
            6 => Self::Unknown,
            7 => Self::Arbiter,
            other => Self::Other(other),
        }
    }
}

impl From<MemberState> for i32 {
    fn from(state: MemberState) -> Self {
        match state {
            MemberState::Primary => 1,
            MemberState::Secondary => 2,
            MemberState::Recovering => 3,
            MemberState::Unknown => 6,
            MemberState::Arbiter => 7,
            MemberState::Other(number) => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::Bson;

    #[test]
    fn states_are_numbers_in_documents() {
        for number in -1..12 {
            let state = MemberState::from(number);
            assert_eq!(i32::from(state), number);
            assert_eq!(bson::serialize_to_bson(&state).expect("a number"), Bson::Int32(number));
        }
        let read = |value: Bson| bson::deserialize_from_bson::<MemberState>(value).expect("a state");
        assert_eq!((read(7.into()), read(Bson::Int64(1))), (MemberState::Arbiter, MemberState::Primary));
    }

    #[test]
    fn data_is_read_from_primaries_and_secondaries() {
        let all = |test: fn(MemberState) -> bool| (0..12).filter(|it| test(MemberState::from(*it))).collect::<Vec<_>>();
        assert_eq!(all(MemberState::is_readable), [1, 2]);
        assert_eq!(all(MemberState::replicates), [1, 2, 3]);
    }
}
