//! The numbers of the server's errors, by the names that the server gives them, and how errors are classified by them.

use mongodb::error::{Error, ErrorKind, WriteFailure};

pub const HOST_UNREACHABLE: i32 = 6;
pub const HOST_NOT_FOUND: i32 = 7;
pub const UNKNOWN_ERROR: i32 = 8;
pub const USER_NOT_FOUND: i32 = 11;
pub const UNAUTHORIZED: i32 = 13;
pub const AUTHENTICATION_FAILED: i32 = 18;
pub const ILLEGAL_OPERATION: i32 = 20;
pub const NAMESPACE_NOT_FOUND: i32 = 26;
pub const INDEX_NOT_FOUND: i32 = 27;
pub const CURSOR_NOT_FOUND: i32 = 43;
pub const NAMESPACE_EXISTS: i32 = 48;
pub const COMMAND_NOT_FOUND: i32 = 59;
pub const WRITE_CONCERN_TIMEOUT: i32 = 64;
pub const IMMUTABLE_FIELD: i32 = 66;
pub const INVALID_OPTIONS: i32 = 72;
pub const NETWORK_TIMEOUT: i32 = 89;
pub const SHUTDOWN_IN_PROGRESS: i32 = 91;
pub const LOCK_FAILED: i32 = 107;
pub const WRITE_CONFLICT: i32 = 112;
pub const CAPPED_POSITION_LOST: i32 = 136;
pub const COMMAND_NOT_SUPPORTED_ON_VIEW: i32 = 166;
pub const QUERY_PLAN_KILLED: i32 = 175;
pub const PRIMARY_STEPPED_DOWN: i32 = 189;
pub const CURSOR_KILLED: i32 = 237;
pub const EXCEEDED_TIME_LIMIT: i32 = 262;
pub const UNSATISFIABLE_COMMIT_QUORUM: i32 = 278;
/// `CannotInsertTimeseriesBucketsWithMixedSchema`: the measurements of a bucket differ in type, and the collection does not
/// allow it.
pub const MIXED_SCHEMA: i32 = 408;
pub const SOCKET_EXCEPTION: i32 = 9001;
pub const NOT_WRITABLE_PRIMARY: i32 = 10_107;
pub const BSON_OBJECT_TOO_LARGE: i32 = 10_334;
pub const DUPLICATE_KEY: i32 = 11_000;
pub const INTERRUPTED_AT_SHUTDOWN: i32 = 11_600;
pub const INTERRUPTED_DUE_TO_STATE_CHANGE: i32 = 11_602;
pub const NOT_PRIMARY_NO_SECONDARY_OK: i32 = 13_435;
pub const NOT_PRIMARY_OR_SECONDARY: i32 = 13_436;
/// An update would change `_id`. It has no name.
pub const ID_WOULD_CHANGE: i32 = 13_596;
/// An update would make the document larger than 16 MB. The server has two numbers for this and no name.
pub const UPDATED_TOO_LARGE: [i32; 2] = [17_419, 17_420];

/// What was tried may succeed if it is tried again.
const TRANSIENT: &[i32] = &[
    HOST_UNREACHABLE,
    HOST_NOT_FOUND,
    NETWORK_TIMEOUT,
    SHUTDOWN_IN_PROGRESS,
    WRITE_CONFLICT,
    PRIMARY_STEPPED_DOWN,
    EXCEEDED_TIME_LIMIT,
    NOT_WRITABLE_PRIMARY,
    INTERRUPTED_AT_SHUTDOWN,
    INTERRUPTED_DUE_TO_STATE_CHANGE,
    NOT_PRIMARY_NO_SECONDARY_OK,
    NOT_PRIMARY_OR_SECONDARY,
    SOCKET_EXCEPTION,
    WRITE_CONCERN_TIMEOUT,
];

/// The number in the server's answer, if the server answered with an error.
///
/// A command that is run as such fails with an error of the command. The driver's own inserts, updates and deletes also
/// fail with errors of single documents; of several documents, the first one counts. The number of a write that too few
/// members confirmed is not given, because the write itself has succeeded.
#[must_use]
pub fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::InsertMany(many) => many.write_errors.as_ref().and_then(|all| all.first()).map(|it| it.code),
        _ => None,
    }
}

/// May an operation that the server refused with this number succeed if it is sent again?
#[must_use]
pub fn is_transient_code(code: i32) -> bool {
    TRANSIENT.contains(&code)
}

/// May what failed with this error succeed if it is tried again?
#[must_use]
pub fn is_transient(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::ServerSelection { .. } => true,
        ErrorKind::Command(command) => is_transient_code(command.code),
        _ => error.contains_label("RetryableWriteError"),
    }
}

/// Was a cursor lost that was open before, so that its query has to begin again?
#[must_use]
pub fn is_lost_cursor(error: &Error) -> bool {
    matches!(code(error), Some(CURSOR_NOT_FOUND | CAPPED_POSITION_LOST | QUERY_PLAN_KILLED | CURSOR_KILLED))
}

/// A unique index refused the write.
#[must_use]
pub fn is_duplicate_key(error: &Error) -> bool {
    code(error) == Some(DUPLICATE_KEY)
}

/// Of many inserts some were refused by a unique index, and nothing else went wrong.
#[must_use]
pub fn only_duplicate_keys(error: &Error) -> bool {
    let ErrorKind::InsertMany(many) = error.kind.as_ref() else { return false };
    many.write_concern_error.is_none()
        && many.write_errors.as_ref().is_some_and(|errors| errors.iter().all(|error| error.code == DUPLICATE_KEY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use mongodb::error::{CommandError, InsertManyError, WriteError};

    fn of(kind: ErrorKind) -> Error {
        Error::from(kind)
    }

    fn command(code: i32) -> Error {
        let answer = doc! { "code": code, "codeName": "Any", "errmsg": "refused" };
        of(ErrorKind::Command(bson::deserialize_from_document::<CommandError>(answer).expect("an answer")))
    }

    fn inserts(codes: &[i32]) -> Error {
        let single = |(index, code): (usize, &i32)| doc! { "index": index as i64, "code": *code, "errmsg": "refused" };
        let errors: Vec<_> = codes.iter().enumerate().map(single).collect();
        let all = doc! { "writeErrors": errors };
        of(ErrorKind::InsertMany(bson::deserialize_from_document::<InsertManyError>(all).expect("an answer")))
    }

    fn write(code: i32) -> Error {
        let answer = doc! { "code": code, "errmsg": "refused" };
        let write = bson::deserialize_from_document::<WriteError>(answer).expect("an answer");
        of(ErrorKind::Write(WriteFailure::WriteError(write)))
    }

    #[test]
    fn commands_and_writes_have_a_number_and_lost_connections_have_none() {
        assert_eq!(code(&command(NAMESPACE_NOT_FOUND)), Some(26));
        assert_eq!(code(&write(DUPLICATE_KEY)), Some(11_000));
        assert_eq!(code(&inserts(&[DUPLICATE_KEY, UNAUTHORIZED])), Some(11_000));
        assert_eq!(code(&Error::custom("no answer")), None);
    }

    #[test]
    fn only_errors_that_may_pass_are_tried_again() {
        for transient in [PRIMARY_STEPPED_DOWN, NOT_WRITABLE_PRIMARY, SHUTDOWN_IN_PROGRESS] {
            assert!(is_transient(&command(transient)), "{transient}");
            assert!(
                !is_transient(&write(transient)),
                "a write says by a label whether it can be repeated: {transient}"
            );
        }
        for lasting in [UNAUTHORIZED, NAMESPACE_NOT_FOUND, DUPLICATE_KEY] {
            assert!(!is_transient(&command(lasting)), "{lasting}");
        }
        assert!(is_transient(&Error::from(std::io::Error::other("the connection is lost"))));
        assert!(is_lost_cursor(&command(CURSOR_NOT_FOUND)) && !is_lost_cursor(&command(UNAUTHORIZED)));
    }

    #[test]
    fn duplicate_keys_are_told_from_other_refusals() {
        assert!(is_duplicate_key(&command(DUPLICATE_KEY)) && !is_duplicate_key(&command(UNAUTHORIZED)));
        assert!(only_duplicate_keys(&inserts(&[DUPLICATE_KEY, DUPLICATE_KEY])));
        assert!(!only_duplicate_keys(&inserts(&[DUPLICATE_KEY, UNAUTHORIZED])));
        assert!(!only_duplicate_keys(&command(DUPLICATE_KEY)), "it is not an answer to many inserts");
        let unconfirmed = doc! {
            "writeErrors": [{ "index": 0_i64, "code": DUPLICATE_KEY, "errmsg": "refused" }],
            "writeConcernError": { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "too late" },
        };
        let unconfirmed = bson::deserialize_from_document::<InsertManyError>(unconfirmed).expect("an answer");
        assert!(unconfirmed.write_concern_error.is_some());
        assert!(!only_duplicate_keys(&of(ErrorKind::InsertMany(unconfirmed))), "no majority has the others");
    }
}
