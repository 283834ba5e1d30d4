//! Names that only a replay gives, and takes away again: for collections that may not have their own for a while.
//!
//! `tmp`, eight hexadecimal digits, `.pbm`: no collection that a person makes is called so.

use bson::Uuid;

/// A name that nothing has.
pub(super) fn fresh() -> String {
    of(&Uuid::new().bytes())
}

/// The name of a collection with this UUID, always the same one.
#[must_use]
pub fn of(uuid: &[u8]) -> String {
    let digits: String = uuid.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("tmp{digits}.pbm")
}

/// Is it such a name?
#[must_use]
pub fn is(coll: &str) -> bool {
    let digits = coll.strip_prefix("tmp").and_then(|rest| rest.strip_suffix(".pbm"));
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_names_are_known_and_others_are_not() {
        assert!(is(&fresh()));
        assert!(is(&of(&[0, 0xff, 1, 2, 3])));
        assert_eq!(of(&[0, 0xff, 1, 2, 3]), "tmp00ff0102.pbm");
        for other in
            ["tmp.pbm", "tmp00ff010.pbm", "tmp00ff01022.pbm", "tmp00ff010g.pbm", "xtmp00ff0102.pbm", "tmp00ff0102"]
        {
            assert!(!is(other), "{other}");
        }
    }
}
