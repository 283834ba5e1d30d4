//! Builds operations in the form that `applyOps` takes.

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, Timestamp, cstr};

use crate::oplog::entry::{Entry, Kind, crop, excerpt, show};
use crate::raw::{Field, find};
use crate::replay::key::Key;

/// An insert, update or delete that is sent to the target.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) body: RawDocumentBuf,
    pub(super) kind: Kind,
    pub(super) ts: Timestamp,
    pub(super) key: Key,
    /// The position of the operation in its batch.
    pub(super) at: usize,
}

impl Op {
    /// `ns` must be the present name of the collection, because the server locks the collection of that name, even if
    /// the UUID belongs to another one.
    pub(super) fn new(entry: &Entry<'_>, key: Key, ns: &str) -> Self {
        let mut body = RawDocumentBuf::new();
        body.append(cstr!("op"), code(entry.kind));
        body.append(cstr!("ns"), ns);
        append_uuid(&mut body, &key);
        body.append(cstr!("o"), entry.o.to_owned());
        if let (Kind::Update, Some(o2)) = (entry.kind, entry.o2) {
            body.append(cstr!("o2"), o2.to_owned());
        }
        Self { body, kind: entry.kind, ts: entry.ts, key, at: 0 }
    }

    /// A delete of the document that `insert` inserts.
    pub(super) fn delete_before(insert: &Entry<'_>, key: Key, ns: &str) -> Self {
        let id = find(insert.o, "_id").map(|id| id.alone("_id"));
        let o = id.as_deref().unwrap_or(insert.o);
        Self::new(&Entry { kind: Kind::Delete, o, ..*insert }, key, ns)
    }

    /// Describes the operation for an error message.
    pub(super) fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Insert => "insert",
            Kind::Update => "update",
            Kind::Delete => "delete",
            Kind::Command | Kind::Noop | Kind::Internal => "entry",
        };
        let ns = self.body.get_str("ns").unwrap_or("?");
        let holder = find(&self.body, if self.kind == Kind::Update { "o2" } else { "o" });
        let document = holder.and_then(|holder| holder.document());
        let shown = match document.and_then(|document| find(document, "_id")) {
            Some(id) => crop(&excerpt(&id.alone("_id")), 200),
            None => document.map(excerpt).unwrap_or_default(),
        };
        format!("oplog {kind} in {ns} at {}: {shown}", show(self.ts))
    }
}

fn code(kind: Kind) -> &'static str {
    match kind {
        Kind::Insert => "i",
        Kind::Update => "u",
        Kind::Delete => "d",
        Kind::Command => "c",
        // These are never sent.
        Kind::Noop | Kind::Internal => "n",
    }
}

/// Builds the operation for command `o` on database `db` and the collection of `key`.
pub(super) fn command_document(db: &str, key: &Key, o: &RawDocument) -> RawDocumentBuf {
    let mut op = RawDocumentBuf::new();
    op.append(cstr!("op"), "c");
    op.append(cstr!("ns"), format!("{db}.$cmd"));
    append_uuid(&mut op, key);
    op.append(cstr!("o"), o.to_owned());
    op
}

pub(super) fn append_uuid(op: &mut RawDocumentBuf, key: &Key) {
    if let Key::Uuid(uuid) = key {
        op.append(cstr!("ui"), uuid_binary(*uuid));
    }
}

/// A UUID as a BSON value.
pub(super) fn uuid_binary(uuid: [u8; 16]) -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: uuid.to_vec() }
}

/// The `_id` of the document that an operation changes.
pub(super) fn document_id<'a>(entry: &Entry<'a>) -> Option<Field<'a>> {
    let holder = if entry.kind == Kind::Update { entry.o2? } else { entry.o };
    find(holder, "_id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Uuid, rawdoc};

    const TS: Timestamp = Timestamp { time: 7, increment: 3 };

    #[test]
    fn operations_have_the_present_name_and_the_uuid() {
        let uuid = Uuid::from_bytes([7; 16]);
        let raw = rawdoc! {"op": "u", "ns": "shop.old", "o": {"$v": 2}, "o2": {"_id": 1}};
        let entry = Entry::parse(&raw, Some(TS)).expect("an entry");
        let binary = uuid_binary(uuid.bytes());
        let update = Op::new(&entry, Key::uuid(uuid), "shop.new");
        assert_eq!(
            update.body,
            rawdoc! {"op": "u", "ns": "shop.new", "ui": binary.clone(), "o": {"$v": 2}, "o2": {"_id": 1}}
        );
        assert_eq!(update.describe(), "oplog update in shop.new at 7:3: { \"_id\": 1 }");
        assert_eq!(
            Op::new(&entry, Key::name("shop", "old"), "shop.old").body,
            rawdoc! {"op": "u", "ns": "shop.old", "o": {"$v": 2}, "o2": {"_id": 1}}
        );
    }

    #[test]
    fn the_delete_before_an_insert_names_only_the_document() {
        let raw = rawdoc! {"op": "i", "ns": "shop.c", "o": {"a": 1, "_id": 5}};
        let insert = Entry::parse(&raw, Some(TS)).expect("an entry");
        let delete = Op::delete_before(&insert, Key::name("shop", "c"), "shop.c");
        assert_eq!((delete.kind, delete.ts), (Kind::Delete, TS));
        assert_eq!(delete.body, rawdoc! {"op": "d", "ns": "shop.c", "o": {"_id": 5}});
    }
}
