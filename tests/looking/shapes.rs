//! The JSON of the looking commands, key by key: the original's keys, which of them may be missing, and what we add.

use serde_json::Value;

/// What a value may be.
#[derive(Debug, Clone)]
pub enum Shape {
    Text,
    Int,
    Flag,
    /// Anything that JSON can say: a document of somebody else.
    Free,
    /// One of these texts.
    Word(&'static [&'static str]),
    List(Box<Shape>),
    OrNull(Box<Shape>),
    /// Any keys, all with values of one shape.
    Map(Box<Shape>),
    Keys(Vec<Key>),
}

use Shape::{Flag, Free, Int, Text, Word};

#[derive(Debug, Clone)]
pub struct Key {
    name: &'static str,
    /// The original leaves it out when there is nothing to say, or it is ours.
    optional: bool,
    shape: Shape,
}

fn list(of: Shape) -> Shape {
    Shape::List(Box::new(of))
}

fn or_null(of: Shape) -> Shape {
    Shape::OrNull(Box::new(of))
}

fn keys<const N: usize>(keys: [Key; N]) -> Shape {
    Shape::Keys(keys.into())
}

/// Always there.
fn key(name: &'static str, shape: Shape) -> Key {
    Key { name, optional: false, shape }
}

/// The original's, left out when empty.
fn maybe(name: &'static str, shape: Shape) -> Key {
    Key { name, optional: true, shape }
}

/// *Added by us*, and always left out when there is nothing to say.
fn ours(name: &'static str, shape: Shape) -> Key {
    maybe(name, shape)
}

const STATUSES: Shape = Word(&[
    "init",
    "ready",
    "starting",
    "running",
    "dumpDone",
    "copyReady",
    "copyDone",
    "cleanupCluster",
    "partlyDone",
    "down",
    "done",
    "canceled",
    "error",
]);
const TYPES: Shape = Word(&["logical", "physical", "incremental", "external"]);

fn range() -> Shape {
    keys([
        key("range", keys([key("start", Int), key("end", Int)])),
        maybe("noBaseSnapshot", Flag),
        maybe("error", Free),
    ])
}

fn gap() -> Shape {
    keys([key("rs", Text), key("from", Int), key("to", Int)])
}

fn snapshot() -> Vec<Key> {
    vec![
        key("name", Text),
        maybe("profile", Text),
        maybe("nss", list(Text)),
        key("status", STATUSES),
        key("printStatus", Word(&["success", "failed", "ongoing"])),
        maybe("error", Text),
        key("restoreTo", Int),
        key("pbmVersion", Text),
        key("type", TYPES),
        key("src", Text),
    ]
}

fn message() -> Shape {
    keys([key("msg", Text)])
}

pub fn error() -> Shape {
    keys([key("Error", Text), ours("Hints", list(Text)), ours("Class", Text), ours("Code", Int)])
}

pub fn status() -> Shape {
    let mut stored = snapshot();
    stored.extend([maybe("storage", Text), maybe("size", Int)]);
    let node = keys([
        key("host", Text),
        key("agent", Text),
        key("role", Word(&["P", "S", "A", "H", "D"])),
        key("prio_pitr", Text),
        key("prio_backup", Text),
        key("ok", Flag),
        maybe("errors", list(Text)),
        ours("lag", Int),
        ours("unfit", Text),
        ours("release", Text),
    ]);
    let chunks = keys([maybe("pitrChunks", list(range())), key("size", Int), ours("gaps", list(gap()))]);
    let slicer = keys([
        key("rs", Text),
        key("node", Text),
        key("lag", Int),
        key("oplogWindow", Int),
        key("oplogWindowLeft", Int),
        maybe("error", Text),
    ]);
    let progress = keys([
        key("phase", Text),
        key("bytes", Int),
        key("bytesTotal", Int),
        key("docs", Int),
        key("docsTotal", Int),
        maybe("secondsLeft", Int),
    ]);
    let shared = keys([key("id", Text), key("name", Text), key("node", Text), key("last", Int)]);
    keys([
        maybe(
            "backups",
            keys([
                key("type", Word(&["FS", "S3", "Minio", "GCS", "Azure", "OSS", "OCI", "blackhole", "Unknown"])),
                key("path", Text),
                maybe("region", Text),
                key("snapshot", or_null(list(Shape::Keys(stored)))),
                maybe("pitrChunks", chunks),
                ours("used", Int),
                ours("sharedWith", list(shared)),
            ]),
        ),
        maybe("cluster", list(keys([key("rs", Text), key("nodes", list(node))]))),
        maybe(
            "pitr",
            keys([
                key("conf", Flag),
                key("run", Flag),
                key("nodes", or_null(list(Text))),
                maybe("error", Text),
                ours("slicers", list(slicer)),
                ours("warnings", list(Text)),
            ]),
        ),
        maybe(
            "running",
            keys([
                maybe("type", Text),
                maybe("opID", Text),
                maybe("name", Text),
                maybe("startTS", Int),
                maybe("status", Text),
                ours("progress", progress),
            ]),
        ),
        ours("problems", list(Text)),
    ])
}

pub fn listing() -> Shape {
    let pitr = keys([
        key("on", Flag),
        key("ranges", list(range())),
        maybe("rsRanges", Shape::Map(Box::new(list(range())))),
        ours("size", Int),
        ours("gaps", list(gap())),
    ]);
    keys([key("snapshots", or_null(list(Shape::Keys(snapshot())))), maybe("pitr", pitr)])
}

pub fn restores() -> Shape {
    list(keys([
        key("start", Int),
        key("status", STATUSES),
        key("type", Word(&["snapshot", "pitr", "replay"])),
        maybe("snapshot", Text),
        maybe("start-point-in-time", Int),
        maybe("point-in-time", Int),
        key("name", Text),
        maybe("namespaces", list(Text)),
        maybe("error", Text),
    ]))
}

pub fn backup() -> Shape {
    let replset = keys([
        key("name", Text),
        key("status", STATUSES),
        key("node", Text),
        maybe("files", Free),
        key("size", Int),
        key("size_uncompressed", Int),
        maybe("size_h", Text),
        key("size_uncompressed_h", Text),
        key("last_write_ts", Int),
        key("last_transition_ts", Int),
        key("last_write_time", Text),
        key("last_transition_time", Text),
        maybe("configsvr", Flag),
        maybe("configshard", Flag),
        maybe("security", Free),
        maybe("error", Text),
        maybe("collections", list(Text)),
        maybe("physical", Free),
    ]);
    keys([
        key("name", Text),
        maybe("profile", Text),
        maybe("storage_name", Text),
        key("storage_type", Text),
        key("opid", Text),
        key("type", TYPES),
        key("last_write_ts", Int),
        key("last_transition_ts", Int),
        key("last_write_time", Text),
        key("last_transition_time", Text),
        maybe("namespaces", list(Text)),
        key("sel_user_and_roles", Flag),
        key("mongodb_version", Text),
        key("fcv", Text),
        key("pbm_version", Text),
        key("status", STATUSES),
        key("size", Int),
        key("size_uncompressed", Int),
        key("size_h", Text),
        key("size_uncompressed_h", Text),
        maybe("error", Text),
        key("replsets", list(replset)),
    ])
}

pub fn restore() -> Shape {
    let node = keys([
        key("name", Text),
        key("status", STATUSES),
        maybe("error", Text),
        key("last_transition_ts", Int),
        key("last_transition_time", Text),
    ]);
    let replset = keys([
        key("name", Text),
        key("status", STATUSES),
        maybe("partial_txn", Free),
        key("last_transition_ts", Int),
        key("last_transition_time", Text),
        maybe("nodes", list(node)),
        maybe("error", Text),
    ]);
    keys([
        key("name", Text),
        key("opid", Text),
        key("backup", Text),
        key("type", TYPES),
        key("status", STATUSES),
        maybe("error", Text),
        maybe("namespaces", list(Text)),
        key("start", Text),
        maybe("finish", Text),
        maybe("ts_to_restore", Int),
        maybe("time_to_restore", Text),
        key("last_transition_ts", Int),
        key("last_transition_time", Text),
        key("replsets", list(replset)),
    ])
}

pub fn config() -> Shape {
    keys([key("storage", Free), maybe("pitr", Free), maybe("backup", Free), maybe("restore", Free)])
}

pub fn config_key() -> Shape {
    keys([key("key", Text), key("value", Text)])
}

pub fn profile() -> Shape {
    keys([key("name", Text), key("profile", Flag), key("storage", Free)])
}

pub fn profiles() -> Shape {
    keys([key("profiles", or_null(list(profile())))])
}

fn line() -> Shape {
    keys([
        key("ts", Int),
        key("s", Int),
        key("rs", Text),
        key("node", Text),
        key("e", Text),
        key("eobj", Text),
        key("ep", keys([key("T", Int), key("I", Int)])),
        maybe("opid", Text),
        key("msg", Text),
    ])
}

pub fn logs() -> Shape {
    list(line())
}

pub fn version() -> Shape {
    keys(["Version", "Platform", "GitCommit", "GitBranch", "BuildTime", "GoVersion"].map(|name| key(name, Text)))
}

/// What of `value` is not as `shape` says, each with its place.
pub fn check(shape: &Shape, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    look(shape, value, "", &mut wrong);
    wrong
}

fn look(shape: &Shape, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let mut expect = |good: bool, what: &str| {
        if !good {
            wrong.push(format!("{at}: {value} is no {what}"));
        }
    };
    match (shape, value) {
        (Free, _) => {}
        (Text, _) => expect(value.is_string(), "text"),
        (Int, _) => expect(value.is_i64() || value.is_u64(), "whole number"),
        (Flag, _) => expect(value.is_boolean(), "true or false"),
        (Word(words), _) => expect(value.as_str().is_some_and(|it| words.contains(&it)), &format!("of {words:?}")),
        (Shape::OrNull(_), Value::Null) => {}
        (Shape::OrNull(of), _) => look(of, value, at, wrong),
        (Shape::List(of), Value::Array(items)) => {
            items.iter().enumerate().for_each(|(n, item)| look(of, item, &format!("{at}[{n}]"), wrong));
        }
        (Shape::Map(of), Value::Object(map)) => {
            map.iter().for_each(|(name, value)| look(of, value, &format!("{at}.{name}"), wrong));
        }
        (Shape::Keys(keys), Value::Object(map)) => {
            for (name, value) in map {
                match keys.iter().find(|key| key.name == name) {
                    Some(key) => look(&key.shape, value, &format!("{at}.{name}"), wrong),
                    None => wrong.push(format!("{at}.{name}: not the original's and not listed as ours")),
                }
            }
            for key in keys.iter().filter(|key| !key.optional && !map.contains_key(key.name)) {
                wrong.push(format!("{at}.{}: missing", key.name));
            }
        }
        (Shape::List(_), _) => expect(false, "list"),
        (Shape::Map(_) | Shape::Keys(_), _) => expect(false, "object"),
    }
}

#[test]
fn what_is_wrong_is_found() {
    let one = keys([key("a", Int), maybe("b", or_null(list(Word(&["x"]))))]);
    let found = |json: &str| check(&one, &serde_json::from_str(json).expect("json"));
    for good in [r#"{"a":1}"#, r#"{"a":1,"b":null}"#, r#"{"a":-1,"b":["x","x"]}"#] {
        assert_eq!(found(good), [""; 0], "{good}");
    }
    for (bad, place) in [
        (r#"{"b":null}"#, ".a: missing"),
        (r#"{"a":1.5}"#, ".a: 1.5 is no whole number"),
        (r#"{"a":1,"c":2}"#, ".c: not the original's"),
        (r#"{"a":1,"b":["x","y"]}"#, ".b[1]:"),
        (r#"{"a":1,"b":{}}"#, ".b: {} is no list"),
        ("[]", ": [] is no object"),
    ] {
        assert!(found(bad).iter().any(|it| it.starts_with(place)), "{bad}: {:?}", found(bad));
    }
    assert_eq!(check(&message(), &serde_json::json!({ "msg": "x" })), [""; 0]);
}
