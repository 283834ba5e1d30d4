//! Reads one oplog entry in place: its operation, the object of the operation, and the transaction that it is part of.
//!
//! Source: docs/format.md E.6.2. Only the fields that a replay needs are read; nothing is copied.

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use bson::spec::BinarySubtype;
use bson::{Document, RawArray, RawBsonRef, RawDocument, Timestamp, Uuid};

use crate::raw::{fields, find, text};

/// The `op` of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Noop,
    /// A change of what the server keeps beside the data: entries of indexes that are being built, counts of documents (`ci`,
    /// `cu`, `cd`), keys of its encryption (`km`). The target has its own, so leaving it out loses nothing.
    Internal,
    Insert,
    Update,
    Delete,
    Command,
}

/// An oplog entry, or an operation inside an `applyOps` entry. Such an operation has the time of the `applyOps` entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub ts: Timestamp,
    pub kind: Kind,
    pub ns: &'a str,
    pub ui: Option<Uuid>,
    pub o: &'a RawDocument,
    pub o2: Option<&'a RawDocument>,
    /// The whole document of the entry.
    pub raw: &'a RawDocument,
}

/// The part of a transaction that an entry contains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part<'a> {
    /// Operations of a transaction. More of its operations follow in later entries.
    Partial(&'a RawArray),
    /// The last operations of a transaction that waits for its commit or abort.
    Prepare(&'a RawArray),
    /// The last operations of a transaction. This entry also commits the transaction.
    Last(&'a RawArray),
    /// The commit of a prepared transaction.
    Commit { at: Timestamp },
    /// The abort of a prepared transaction.
    Abort,
}

/// A part of a transaction with its place in the chain of parts.
#[derive(Debug, Clone, PartialEq)]
pub struct TxnEntry<'a> {
    /// Session and number in the original's form (E.6.5): the raw `lsid` in base64 without padding, `-`, and
    /// `txnNumber`.
    pub id: String,
    pub part: Part<'a>,
    /// Time of the previous part, or (0,0) in the first part.
    pub prev: Timestamp,
}

/// A command (`op: "c"`) and the collections that it changes. Collection names are without their database.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<'a> {
    Create {
        coll: &'a str,
    },
    Drop {
        coll: &'a str,
    },
    DropDatabase,
    Rename {
        from: &'a str,
        to: &'a str,
        drop_target: Option<Uuid>,
    },
    CollMod {
        coll: &'a str,
    },
    /// `createIndexes` and `commitIndexBuild`: the indexes exist after this entry.
    IndexesBuilt {
        coll: &'a str,
        specs: Vec<Document>,
    },
    /// `dropIndexes` (`*` or a name) and `abortIndexBuild`: the indexes do not exist after this entry.
    IndexesDropped {
        coll: &'a str,
        names: Vec<String>,
    },
    EmptyCapped {
        coll: &'a str,
    },
    /// Operations that are not part of a transaction (this includes vectored retryable inserts, `multiOpType: 1`).
    ApplyOps(&'a RawArray),
    /// A command that changes no data: the start of an index build, a consistency check, the second half of a drop
    /// (`dropIdent`, after `drop`), and the note that an index has arrays in it, which the target finds out itself.
    Harmless,
    /// `createDatabaseMetadata` and `dropDatabaseMetadata`: changes of the routing that a shard keeps itself. A single replica
    /// set has none.
    ShardRouting(&'a str),
    /// A command that this program does not know.
    Unknown(&'a str),
}

impl<'a> Command<'a> {
    /// The collection of the entry's database that the command changes, if it changes exactly one.
    pub fn collection(&self) -> Option<&'a str> {
        match self {
            Self::Create { coll }
            | Self::Drop { coll }
            | Self::CollMod { coll }
            | Self::IndexesBuilt { coll, .. }
            | Self::IndexesDropped { coll, .. }
            | Self::EmptyCapped { coll } => Some(coll),
            Self::DropDatabase
            | Self::Rename { .. }
            | Self::ApplyOps(_)
            | Self::Harmless
            | Self::ShardRouting(_)
            | Self::Unknown(_) => None,
        }
    }
}

impl<'a> Entry<'a> {
    /// Returns the time of the entry. It reads no other field.
    ///
    /// # Errors
    /// The entry has no time.
    pub fn time(raw: &RawDocument) -> Result<Timestamp> {
        let ts = crate::raw::find(raw, "ts").and_then(|ts| ts.timestamp());
        ts.ok_or_else(|| anyhow!("oplog entry without ts: {}", excerpt(raw)))
    }

    /// Reads an entry. If it is an operation of an `applyOps`, `outer` is the time of that `applyOps`.
    pub fn parse(raw: &'a RawDocument, outer: Option<Timestamp>) -> Result<Self> {
        const READ: [&[u8]; 7] = [b"ts", b"op", b"ns", b"o", b"o2", b"ui", b"b"];
        let (mut ts, mut op, mut ns, mut ui, mut o, mut o2) = (outer, None, None, None, None, None);
        let mut upsert = false;
        let mut seen = [false; READ.len()];
        for field in fields(raw) {
            let field = field.context("read oplog entry")?;
            // Other code uses the first field of a name, so a second one could make it read another operation.
            if let Some(at) = READ.iter().position(|name| *name == field.name)
                && std::mem::replace(&mut seen[at], true)
            {
                bail!("oplog entry with two fields `{}`: {}", String::from_utf8_lossy(field.name), excerpt(raw));
            }
            match field.name {
                b"ts" if outer.is_none() => ts = field.timestamp(),
                b"op" => op = field.text(),
                b"ns" => ns = field.text(),
                b"o" => o = field.document(),
                b"o2" => o2 = field.document(),
                b"ui" => ui = field.uuid(),
                b"b" => upsert = field.boolean().unwrap_or(false),
                _ => {}
            }
        }
        let ts = ts.ok_or_else(|| anyhow!("oplog entry without ts: {}", excerpt(raw)))?;
        let kind = match op {
            Some("n") => Kind::Noop,
            Some("i") => Kind::Insert,
            Some("u") => Kind::Update,
            Some("d") => Kind::Delete,
            Some("c") => Kind::Command,
            Some("ci" | "cu" | "cd" | "km") => Kind::Internal,
            op => bail!(
                "oplog entry at {} has the unknown op '{}', which this version can't replay: {}",
                show(ts),
                op.unwrap_or_default(),
                excerpt(raw)
            ),
        };
        let is_left_out = matches!(kind, Kind::Noop | Kind::Internal);
        let missing = |name| anyhow!("oplog entry at {} has no `{name}`: {}", show(ts), excerpt(raw));
        let o = match o {
            Some(o) => o,
            None if is_left_out => raw,
            None => return Err(missing("o")),
        };
        // The oplog contains an `applyOps` command as it was sent. The config servers split chunks with an `applyOps`
        // whose update replaces a whole document, or inserts it if it is missing. In a replay an insert has the same
        // effect.
        let whole = || find(o, "_id").is_some() && find(o, "$v").is_none();
        let kind = if kind == Kind::Update && upsert && whole() { Kind::Insert } else { kind };
        if kind == Kind::Update && o2.is_none() {
            return Err(missing("o2"));
        }
        let ns = ns.or(Some("").filter(|_| kind == Kind::Internal)).with_context(|| {
            format!("oplog entry at {} has no `ns` that is valid UTF-8: {}", show(ts), excerpt(raw))
        })?;
        Ok(Self { ts, kind, ns, ui, o, o2, raw })
    }

    /// Returns the database and the collection (`$cmd` for commands).
    pub fn split_ns(&self) -> (&'a str, &'a str) {
        self.ns.split_once('.').unwrap_or((self.ns, ""))
    }

    /// Returns the part of a transaction that this entry contains, if any.
    pub fn transaction(&self) -> Result<Option<TxnEntry<'a>>> {
        if self.kind != Kind::Command {
            return Ok(None);
        }
        let number = |name| find(self.raw, name).and_then(|field| field.integer());
        let Some(lsid) = find(self.raw, "lsid").and_then(|field| field.document()) else { return Ok(None) };
        let Some(transaction) = number("txnNumber") else { return Ok(None) };
        if number("multiOpType") == Some(1) {
            return Ok(None);
        }
        let flag = |name| matches!(self.o.get(name), Ok(Some(RawBsonRef::Boolean(true))));
        let part = match self.first()? {
            ("applyOps", RawBsonRef::Array(ops)) if flag("partialTxn") => Part::Partial(ops),
            ("applyOps", RawBsonRef::Array(ops)) if flag("prepare") => Part::Prepare(ops),
            ("applyOps", RawBsonRef::Array(ops)) => Part::Last(ops),
            ("commitTransaction", _) => Part::Commit {
                at: self.o.get("commitTimestamp").ok().flatten().and_then(|v| v.as_timestamp()).unwrap_or(self.ts),
            },
            ("abortTransaction", _) => Part::Abort,
            _ => return Ok(None),
        };
        let prev = find(self.raw, "prevOpTime").and_then(|field| field.document());
        let prev = prev.and_then(|prev| prev.get("ts").ok().flatten()).and_then(|ts| ts.as_timestamp());
        let session = base64::engine::general_purpose::STANDARD_NO_PAD.encode(lsid.as_bytes());
        let prev = prev.unwrap_or(Timestamp { time: 0, increment: 0 });
        Ok(Some(TxnEntry { id: format!("{session}-{transaction}"), part, prev }))
    }

    /// Returns the command of an `op: "c"` entry.
    pub fn command(&self) -> Result<Command<'a>> {
        let (name, value) = self.first()?;
        let coll = || value.as_str().ok_or_else(|| self.malformed(&format!("`{name}` names no collection")));
        Ok(match name {
            "create" => Command::Create { coll: coll()? },
            "drop" => Command::Drop { coll: coll()? },
            "dropDatabase" => Command::DropDatabase,
            "renameCollection" => {
                let to = self.o.get("to").ok().flatten().and_then(RawBsonRef::as_str);
                Command::Rename {
                    from: coll()?,
                    to: to.ok_or_else(|| self.malformed("`renameCollection` has no `to`"))?,
                    drop_target: self.o.get("dropTarget").ok().flatten().and_then(uuid),
                }
            }
            "collMod" => Command::CollMod { coll: coll()? },
            "createIndexes" => {
                let mut spec = text::decode(self.o).context("read index specification")?;
                spec.remove("createIndexes");
                Command::IndexesBuilt { coll: coll()?, specs: vec![spec] }
            }
            "commitIndexBuild" => Command::IndexesBuilt { coll: coll()?, specs: self.indexes()? },
            "abortIndexBuild" => {
                let indexes = self.indexes()?;
                let names = indexes.iter().filter_map(|spec| spec.get_str("name").ok().map(str::to_owned));
                Command::IndexesDropped { coll: coll()?, names: names.collect() }
            }
            "dropIndexes" | "dropIndex" | "deleteIndexes" | "deleteIndex" => {
                let index = self.o.get("index").ok().flatten().and_then(RawBsonRef::as_str);
                let index = index.ok_or_else(|| self.malformed(&format!("`{name}` names no index")))?;
                Command::IndexesDropped { coll: coll()?, names: vec![index.to_owned()] }
            }
            "emptycapped" => Command::EmptyCapped { coll: coll()? },
            "applyOps" => match value {
                RawBsonRef::Array(ops) => Command::ApplyOps(ops),
                _ => return Err(self.malformed("`applyOps` is no array")),
            },
            // These commands have an effect only together with a later entry, or on data that the dump does not
            // contain.
            "startIndexBuild"
            | "dbCheck"
            | "modifyCollectionShardingIndexCatalog"
            | "setMultikeyMetadata"
            | "dropIdent" => Command::Harmless,
            "createDatabaseMetadata" | "dropDatabaseMetadata" => Command::ShardRouting(name),
            _ => Command::Unknown(name),
        })
    }

    fn first(&self) -> Result<(&'a str, RawBsonRef<'a>)> {
        let first = self.o.iter().next().ok_or_else(|| self.malformed("empty command"))?;
        let (name, value) = first.context("read oplog command")?;
        Ok((name.as_str(), value))
    }

    fn indexes(&self) -> Result<Vec<Document>> {
        let Ok(Some(RawBsonRef::Array(indexes))) = self.o.get("indexes") else {
            return Err(self.malformed("no `indexes`"));
        };
        indexes
            .into_iter()
            .map(|index| match index.context("read index specification")? {
                RawBsonRef::Document(index) => text::decode(index).context("read index specification"),
                _ => Err(self.malformed("an index is no document")),
            })
            .collect()
    }

    fn malformed(&self, what: &str) -> anyhow::Error {
        anyhow!("oplog entry at {} in {}: {what}: {}", show(self.ts), self.ns, excerpt(self.raw))
    }
}

/// The operations of an `applyOps`, one after the other.
pub fn operations<'a>(ops: &'a RawArray, ts: Timestamp) -> impl Iterator<Item = Result<&'a RawDocument>> + 'a {
    ops.into_iter().map(move |op| match op {
        Ok(RawBsonRef::Document(op)) => Ok(op),
        Ok(_) => bail!("applyOps at {} holds something that is no document", show(ts)),
        Err(error) => Err(error).context("read applyOps entry"),
    })
}

/// Shows a time as `seconds:increment`.
pub fn show(ts: Timestamp) -> String {
    format!("{}:{}", ts.time, ts.increment)
}

/// Returns the beginning of a document as text, short enough for a message.
pub fn excerpt(raw: &RawDocument) -> String {
    const MOST: usize = 300;
    if raw.as_bytes().len() > 4096 {
        return format!("(a document of {} bytes)", raw.as_bytes().len());
    }
    match text::decode(raw) {
        Ok(doc) => crop(&doc.to_string(), MOST),
        Err(error) => format!("(unreadable: {error})"),
    }
}

/// Returns the first `most` bytes of a text at most, with an ellipsis if something was cut off.
pub fn crop(text: &str, most: usize) -> String {
    match text.char_indices().find(|(at, c)| at + c.len_utf8() > most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn uuid(value: RawBsonRef<'_>) -> Option<Uuid> {
    match value {
        RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Uuid => {
            binary.bytes.try_into().ok().map(Uuid::from_bytes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, rawdoc};

    const TS: Timestamp = Timestamp { time: 7, increment: 3 };

    fn command(o: RawDocumentBuf) -> RawDocumentBuf {
        rawdoc! {"ts": TS, "op": "c", "ns": "shop.$cmd", "o": o}
    }

    fn part_of(extra: RawDocumentBuf, o: RawDocumentBuf) -> Option<(String, String, u32)> {
        let mut raw = rawdoc! {"ts": TS, "op": "c", "ns": "admin.$cmd", "o": o};
        extra.iter().for_each(|field| {
            let (name, value) = field.unwrap();
            raw.append(name, value);
        });
        let txn = Entry::parse(&raw, None).unwrap().transaction().unwrap()?;
        let part = match txn.part {
            Part::Partial(_) => "partial",
            Part::Prepare(_) => "prepare",
            Part::Last(_) => "last",
            Part::Commit { at } => return Some((txn.id, format!("commit {}", at.time), txn.prev.time)),
            Part::Abort => "abort",
        };
        Some((txn.id, part.to_owned(), txn.prev.time))
    }

    #[test]
    fn an_entry_with_a_field_twice_is_refused() {
        let mut entry = crate::raw::Writer::new();
        for (time, ns) in [(1, b"shop.a"), (2, b"shop.b")] {
            entry.value(0x11, b"ts", &[0, 0, 0, 0, time, 0, 0, 0]);
            entry.text(b"op", b"d");
            entry.text(b"ns", ns);
        }
        let error = Entry::parse(&entry.finish(), None).expect_err("two times").to_string();
        assert!(error.contains("two fields `ts`"), "{error}");
    }

    #[test]
    fn commands_are_distinguished() {
        let uuid = Uuid::from_bytes([5; 16]);
        let binary = bson::Binary { subtype: BinarySubtype::Uuid, bytes: vec![5; 16] };
        let spec = bson::doc! {"v": 2, "key": {"a": 1}, "name": "a_1"};
        let raw_spec = rawdoc! {"v": 2, "key": {"a": 1}, "name": "a_1"};
        let gone = |names: &[&str]| Command::IndexesDropped {
            coll: "a",
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let built = || Command::IndexesBuilt { coll: "a", specs: vec![spec.clone()] };
        let table = [
            (rawdoc! {"create": "a", "capped": true}, Command::Create { coll: "a" }),
            (rawdoc! {"drop": "a.b"}, Command::Drop { coll: "a.b" }),
            (rawdoc! {"dropDatabase": 1}, Command::DropDatabase),
            (
                rawdoc! {"renameCollection": "shop.a", "to": "shop.b", "stayTemp": false, "dropTarget": binary},
                Command::Rename { from: "shop.a", to: "shop.b", drop_target: Some(uuid) },
            ),
            (
                rawdoc! {"renameCollection": "shop.a", "to": "shop.b", "dropTarget": false},
                Command::Rename { from: "shop.a", to: "shop.b", drop_target: None },
            ),
            (rawdoc! {"collMod": "a", "validator": {}}, Command::CollMod { coll: "a" }),
            (rawdoc! {"createIndexes": "a", "v": 2, "key": {"a": 1}, "name": "a_1"}, built()),
            (rawdoc! {"commitIndexBuild": "a", "indexes": [raw_spec.clone()]}, built()),
            (rawdoc! {"abortIndexBuild": "a", "indexes": [raw_spec]}, gone(&["a_1"])),
            (rawdoc! {"dropIndexes": "a", "index": "*"}, gone(&["*"])),
            (rawdoc! {"deleteIndex": "a", "index": "a_1"}, gone(&["a_1"])),
            (rawdoc! {"startIndexBuild": "a"}, Command::Harmless),
            (rawdoc! {"emptycapped": "a"}, Command::EmptyCapped { coll: "a" }),
            (rawdoc! {"setMultikeyMetadata": "a"}, Command::Harmless),
            (rawdoc! {"dropIdent": "collection-7"}, Command::Harmless),
            (rawdoc! {"createDatabaseMetadata": "shop"}, Command::ShardRouting("createDatabaseMetadata")),
            (rawdoc! {"dropDatabaseMetadata": "shop"}, Command::ShardRouting("dropDatabaseMetadata")),
            (rawdoc! {"importCollection": "a"}, Command::Unknown("importCollection")),
            (
                rawdoc! {"upgradeDowngradeViewlessTimeseries": "a"},
                Command::Unknown("upgradeDowngradeViewlessTimeseries"),
            ),
        ];
        for (o, expected) in table {
            let raw = command(o);
            let found = Entry::parse(&raw, None).unwrap();
            assert_eq!(found.command().unwrap(), expected);
            assert!(found.transaction().unwrap().is_none());
        }
    }

    #[test]
    fn transactions_are_told_from_other_apply_ops() {
        let session = || rawdoc! {"lsid": {"id": 1}, "txnNumber": 4_i64, "prevOpTime": {"ts": Timestamp { time: 2, increment: 1 }, "t": 1_i64}};
        let with = |name, value: i32| {
            let mut all = session();
            all.append(name, value);
            all
        };
        let ops = || rawdoc! {"applyOps": []};
        let id = "DQAAABBpZAABAAAAAA-4";
        let flagged = |name| {
            let mut ops = ops();
            ops.append(name, true);
            ops
        };
        assert_eq!(part_of(session(), ops()).unwrap(), (id.into(), "last".into(), 2));
        assert_eq!(part_of(session(), flagged(bson::cstr!("partialTxn"))).unwrap().1, "partial");
        assert_eq!(part_of(session(), flagged(bson::cstr!("prepare"))).unwrap().1, "prepare");
        let commit = rawdoc! {"commitTransaction": 1, "commitTimestamp": Timestamp { time: 5, increment: 1 }};
        assert_eq!(part_of(session(), commit).unwrap().1, "commit 5");
        assert_eq!(part_of(session(), rawdoc! {"abortTransaction": 1}).unwrap().1, "abort");
        // A vectored retryable insert, and an `applyOps` that a user sent.
        assert_eq!(part_of(with(bson::cstr!("multiOpType"), 1), ops()), None);
        assert_eq!(part_of(rawdoc! {}, ops()), None);
    }

    #[test]
    fn an_upsert_of_a_whole_document_is_an_insert() {
        let with = |upsert: bool, o: RawDocumentBuf| {
            let raw = rawdoc! {"op": "u", "b": upsert, "ns": "config.chunks", "o": o, "o2": {"_id": 1}};
            Entry::parse(&raw, Some(TS)).unwrap().kind
        };
        assert_eq!(with(true, rawdoc! {"_id": 1, "min": 0}), Kind::Insert);
        assert_eq!(with(false, rawdoc! {"_id": 1, "min": 0}), Kind::Update);
        assert_eq!(with(true, rawdoc! {"$v": 2, "diff": {"u": {"a": 1}}}), Kind::Update);
    }

    #[test]
    fn malformed_entries_are_named() {
        for (raw, word) in [
            (rawdoc! {"op": "i", "ns": "a.b", "o": {}}, "without ts"),
            (rawdoc! {"ts": TS, "op": "xi", "ns": "a.b", "o": {}}, "unknown op 'xi'"),
            (rawdoc! {"ts": TS, "ns": "a.b", "o": {}}, "unknown op ''"),
            (rawdoc! {"ts": TS, "op": "u", "ns": "a.b", "o": {}}, "`o2`"),
            (rawdoc! {"ts": TS, "op": "i", "o": {}}, "`ns`"),
        ] {
            let error = Entry::parse(&raw, None).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let raw = command(rawdoc! {"renameCollection": "shop.a"});
        assert!(Entry::parse(&raw, None).unwrap().command().unwrap_err().to_string().contains("7:3"));
    }

    #[test]
    fn changes_of_what_the_server_keeps_beside_the_data_are_known() {
        for op in ["ci", "cu", "cd", "km"] {
            let raw = rawdoc! {"ts": TS, "op": op, "container": "index-7", "o": {"k": 1_i64, "v": "x"}};
            assert_eq!(Entry::parse(&raw, None).unwrap().kind, Kind::Internal);
            assert_eq!(Entry::parse(&rawdoc! {"ts": TS, "op": op}, None).unwrap().ns, "");
        }
    }

    #[test]
    fn texts_are_cropped_at_characters() {
        assert_eq!(crop("aüb", 2), "a…");
        assert_eq!(crop("aüb", 4), "aüb");
    }
}
