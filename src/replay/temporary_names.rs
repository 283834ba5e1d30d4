//! Generates temporary names for collections that can't have their own name yet.
//!
//! A temporary name consists of `tmp`, eight hexadecimal digits and `.pbm`, which is unlikely to be the name of a real
//! collection.

use bson::Uuid;

/// A new temporary name.
pub(super) fn generate() -> String {
    for_uuid(&Uuid::new().bytes())
}

/// Returns the temporary name of the collection with this UUID. It is always the same.
#[must_use]
pub fn for_uuid(uuid: &[u8]) -> String {
    let digits: String = uuid.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("tmp{digits}.pbm")
}

/// Whether a name is temporary.
#[must_use]
pub fn is_temporary(coll: &str) -> bool {
    let digits = coll.strip_prefix("tmp").and_then(|rest| rest.strip_suffix(".pbm"));
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_names_are_known_and_others_are_not() {
        assert!(is_temporary(&generate()));
        assert!(is_temporary(&for_uuid(&[0, 0xff, 1, 2, 3])));
        assert_eq!(for_uuid(&[0, 0xff, 1, 2, 3]), "tmp00ff0102.pbm");
        for other in
            ["tmp.pbm", "tmp00ff010.pbm", "tmp00ff01022.pbm", "tmp00ff010g.pbm", "xtmp00ff0102.pbm", "tmp00ff0102"]
        {
            assert!(!is_temporary(other), "{other}");
        }
    }
}
