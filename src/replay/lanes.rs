//! Decides which operations may be applied at the same time, by assigning each operation to a lane.
//!
//! Within a lane the operations are applied in the order of the oplog. Between two lanes there is no order. All
//! operations on one document are in one lane, so each document goes through its states in their order. Some
//! collections need a stricter order:
//!
//! | collection | lane | why |
//! |---|---|---|
//! | ordinary, clustered, buckets of a time series | by `_id` | documents do not depend on each other |
//! | capped (or to be capped) | one | the order of insertion is part of the data |
//! | with a default collation | one | two different `_id` can be equal to its index |
//! | with a unique index on the target ([`Collection::in_order`]) | one | a document has to lose a value before another document gets it |
//! | not in the catalogue, or a document without `_id` | one | nothing is known |
//! | all of `admin` and `config`, every `system.js` | one for all of them | users, routing: documents refer to each other |
//!
//! An operation on `system.views` is sent alone, because it changes which collection or view has a name.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::model::names::BUCKETS;
use crate::raw::{Field, fields, kind};
use crate::replay::catalog::Collection;
use crate::replay::key::Key;

/// Returns the lane of an operation on the document `id` of `db.coll`: a number below `lanes`.
pub(super) fn lane(
    db: &str,
    coll: &str,
    key: &Key,
    collection: Option<&Collection>,
    id: Option<Field<'_>>,
    lanes: usize,
) -> usize {
    if lanes <= 1 || matches!(db, "admin" | "config") || coll.starts_with("system.") && !coll.starts_with(BUCKETS) {
        return 0;
    }
    // The keys of this hasher are fixed, so that equal operations take equal lanes in every run.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    if let (Some(collection), Some(id)) = (collection, id)
        && !collection.in_order
        && !collection.has_collation
        && collection.deferred.cap.is_none()
    {
        hash_id(&id, &mut hasher);
    }
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or_default()
}

/// Hashes an `_id`. Two values have equal hashes if the index of `_id` (without a collation) treats them as equal:
/// numbers of all types are compared by value, strings and symbols by their bytes, documents and arrays element by
/// element.
fn hash_id(value: &Field<'_>, into: &mut impl Hasher) {
    match value.kind {
        kind::INT32 | kind::INT64 | kind::DOUBLE | kind::DECIMAL => hash_number(as_double(value), into),
        kind::STRING | kind::SYMBOL => (2_u8, value.text_bytes()).hash(into),
        kind::DOCUMENT | kind::ARRAY => {
            value.kind.hash(into);
            for field in value.nested().into_iter().flat_map(fields).flatten() {
                field.name.hash(into);
                hash_id(&field, into);
            }
        }
        kind::OBJECT_ID | kind::BINARY | kind::DATE | kind::TIMESTAMP | kind::BOOLEAN => {
            (value.kind, value.value).hash(into)
        }
        // Other types are rare as an `_id`, so all of them share one hash.
        _ => 0_u8.hash(into),
    }
}

fn as_double(value: &Field<'_>) -> f64 {
    let double = |bytes: &[u8]| bytes.try_into().map(f64::from_le_bytes).unwrap_or(f64::NAN);
    match value.kind {
        kind::DOUBLE => double(value.value),
        kind::DECIMAL => {
            let decimal = value.value.try_into().map(bson::Decimal128::from_bytes);
            decimal.ok().and_then(|decimal| decimal.to_string().parse().ok()).unwrap_or(f64::NAN)
        }
        // Equal numbers are rounded to the same value, so their hashes stay equal.
        _ => value.integer().map_or(f64::NAN, |number| number as f64),
    }
}

fn hash_number(value: f64, into: &mut impl Hasher) {
    // The server treats 0.0 and -0.0 as equal, and all NaN values as equal.
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    (1_u8, value.to_bits()).hash(into);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::find;
    use crate::replay::catalog::{Cap, DeferredOptions};
    use bson::{Binary, Bson, DateTime, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype};
    use std::collections::HashSet;

    const LANES: usize = 64;

    fn lane_of(db: &str, coll: &str, collection: Option<&Collection>, id: &Bson) -> usize {
        let holder = RawDocumentBuf::try_from(&doc! {"_id": id.clone()}).expect("a document");
        let key = Key::name(db, coll);
        lane(db, coll, &key, collection, find(&holder, "_id"), LANES)
    }

    fn lanes_used(db: &str, coll: &str, collection: Option<&Collection>) -> usize {
        (0..500).map(|id| lane_of(db, coll, collection, &Bson::Int32(id))).collect::<HashSet<_>>().len()
    }

    #[test]
    fn documents_are_spread_where_nothing_connects_them() {
        let plain = Collection::default();
        assert_eq!(lanes_used("shop", "orders", Some(&plain)), LANES);
        assert_eq!(lanes_used("shop", "system.buckets.visits", Some(&plain)), LANES);
        let capped = DeferredOptions { cap: Some(Cap { size: 4096, max: None }), ..DeferredOptions::default() };
        let cases = [
            ("shop", "orders", None),
            ("shop", "orders", Some(Collection { in_order: true, ..Collection::default() })),
            ("shop", "orders", Some(Collection { has_collation: true, ..Collection::default() })),
            ("shop", "orders", Some(Collection { deferred: capped, ..Collection::default() })),
            ("shop", "system.js", Some(plain.clone())),
            ("shop", "system.views", Some(plain.clone())),
            ("admin", "mine", Some(plain.clone())),
            ("config", "chunks", None),
        ];
        for (db, coll, collection) in cases {
            assert_eq!(lanes_used(db, coll, collection.as_ref()), 1, "{db}.{coll} {collection:?}");
        }
        // Documents of these collections refer to each other.
        let one = |db, coll| lane_of(db, coll, None, &Bson::Int32(1));
        assert_eq!(one("config", "chunks"), one("config", "collections"));
        assert_eq!(one("admin", "system.users"), one("admin", "system.roles"));
        // A document without `_id`.
        let key = Key::name("shop", "orders");
        let without = lane("shop", "orders", &key, Some(&plain), None, LANES);
        assert_eq!(without, lane("shop", "orders", &key, None, None, LANES));
    }

    #[test]
    fn one_lane_is_the_order_of_the_oplog() {
        let plain = Collection::default();
        let holder = RawDocumentBuf::try_from(&doc! {"_id": 7}).expect("a document");
        for lanes in [0, 1] {
            let id = find(&holder, "_id");
            assert_eq!(lane("shop", "orders", &Key::name("shop", "orders"), Some(&plain), id, lanes), 0);
        }
    }

    #[test]
    fn ids_that_are_equal_to_the_index_are_in_one_lane() {
        let plain = Collection::default();
        let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
        let equal = [
            vec![Bson::Int32(5), Bson::Int64(5), Bson::Double(5.0), decimal("5"), decimal("5.00"), decimal("50E-1")],
            vec![Bson::Int32(0), Bson::Double(0.0), Bson::Double(-0.0), decimal("0"), decimal("-0"), decimal("0E+3")],
            vec![Bson::Double(0.5), decimal("0.5"), decimal("0.50")],
            vec![Bson::Int64(1 << 60), Bson::Double((1_i64 << 60) as f64), decimal("1152921504606846976")],
            vec![Bson::Int64(i64::MAX), decimal("9223372036854775807")],
            vec![Bson::Double(f64::NAN), Bson::Double(-f64::NAN), decimal("NaN")],
            vec![Bson::Double(f64::INFINITY), decimal("Infinity")],
            vec![Bson::String("a".into()), Bson::Symbol("a".into())],
            vec![
                doc! {"a": 1, "b": {"c": 2_i64}}.into(),
                doc! {"a": 1.0, "b": {"c": decimal("2")}}.into(),
                doc! {"a": 1_i64, "b": {"c": 2}}.into(),
            ],
        ];
        for group in equal {
            let lanes: HashSet<_> = group.iter().map(|id| lane_of("shop", "c", Some(&plain), id)).collect();
            assert_eq!(lanes.len(), 1, "{group:?}");
        }
    }

    #[test]
    fn every_usual_kind_of_id_is_spread() {
        let plain = Collection::default();
        let kinds: [fn(i32) -> Bson; 9] = [
            |n| Bson::Int64(i64::from(n)),
            |n| Bson::Double(f64::from(n) / 7.0),
            |n| Bson::String(format!("user-{n}")),
            |n| {
                let mut id = [3; 12];
                id[8..].copy_from_slice(&n.to_be_bytes());
                Bson::ObjectId(ObjectId::from_bytes(id))
            },
            |n| Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: n.to_be_bytes().repeat(4) }),
            |n| Bson::DateTime(DateTime::from_millis(i64::from(n))),
            |n| doc! {"tenant": 1, "n": n}.into(),
            |n| Bson::Array(vec![Bson::Int32(1), Bson::Int32(n)]),
            |n| Bson::Decimal128(format!("{n}.25").parse().expect("a decimal")),
        ];
        for kind in kinds {
            let used: HashSet<_> = (0..500).map(|n| lane_of("shop", "c", Some(&plain), &kind(n))).collect();
            assert!(used.len() > LANES / 2, "{:?}: {} lanes", kind(1), used.len());
        }
    }
}
