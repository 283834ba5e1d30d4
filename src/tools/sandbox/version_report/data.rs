//! Data of every kind, as far as the server knows the kind.

use crate::mongo::admin;
use anyhow::{Context as _, Result};
use mongodb::{
    Client,
    bson::{
        Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId,
        spec::BinarySubtype,
    },
};
use std::str::FromStr as _;

/// The databases of the data.
pub const DATABASES: [&str; 2] = ["kinds", "more"];
const FIRST_MS: i64 = 1_700_000_000_000;

/// A kind of namespace or index, and the command that makes it.
struct Kind {
    what: &'static str,
    command: Document,
}

/// Creates collections and indexes of all kinds, and fills them. Returns the kinds that this server refuses, each with the reason.
///
/// # Errors
/// Documents can't be inserted.
pub async fn fill(client: &Client) -> Result<Vec<String>> {
    let db = client.database(DATABASES[0]);
    let mut refused = Vec::new();
    for Kind { what, command } in kinds() {
        if let Err(error) = db.run_command(command).await {
            refused.push(format!("{what}: {}", admin::explain(&error.into())));
        }
    }
    insert(client).await?;
    for (user, command) in [
        (
            "role",
            doc! { "createRole": "reader", "privileges": [{ "resource": { "db": "kinds", "collection": "" }, "actions": ["find"] }], "roles": [] },
        ),
        ("user", doc! { "createUser": "ann", "pwd": "not secret", "roles": ["reader"] }),
    ] {
        db.run_command(command).await.with_context(|| format!("make a {user}"))?;
    }
    Ok(refused)
}

fn kinds() -> Vec<Kind> {
    let kind = |what, command| Kind { what, command };
    let index = |what, coll: &str, key: Document, options: Document| {
        let mut spec = doc! { "key": key, "name": what };
        spec.extend(options);
        kind(what, doc! { "createIndexes": coll, "indexes": [spec] })
    };
    vec![
        kind("collection", doc! { "create": "plain" }),
        kind("capped collection", doc! { "create": "ring", "capped": true, "size": 65_536, "max": 50 }),
        kind("collection with a collation", doc! { "create": "words", "collation": { "locale": "de", "strength": 2 } }),
        kind(
            "collection with a validator",
            doc! { "create": "strict", "validator": { "n": { "$type": "int" } }, "validationLevel": "moderate", "validationAction": "warn" },
        ),
        kind(
            "time series",
            doc! { "create": "points", "timeseries": { "timeField": "t", "metaField": "m", "granularity": "minutes" }, "expireAfterSeconds": 1_000_000_000_i64 },
        ),
        kind(
            "clustered collection",
            doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        ),
        kind(
            "collection with images of changes",
            doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } },
        ),
        kind("view", doc! { "create": "seen", "viewOn": "plain", "pipeline": [{ "$match": { "n": { "$gt": 3 } } }] }),
        kind(
            "view of a time series",
            doc! { "create": "late", "viewOn": "points", "pipeline": [{ "$match": { "m": 1 } }] },
        ),
        kind("empty collection", doc! { "create": "empty" }),
        index("unique index", "plain", doc! { "n": 1 }, doc! { "unique": true }),
        index("sparse index", "plain", doc! { "s": -1 }, doc! { "sparse": true }),
        index("partial index", "plain", doc! { "p": 1 }, doc! { "partialFilterExpression": { "p": { "$gt": 5 } } }),
        index("TTL index", "plain", doc! { "at": 1 }, doc! { "expireAfterSeconds": 1_000_000_000_i64 }),
        index(
            "text index",
            "plain",
            doc! { "text": "text" },
            doc! { "weights": { "text": 3 }, "default_language": "german" },
        ),
        index("hashed index", "plain", doc! { "h": "hashed" }, doc! {}),
        index("2dsphere index", "plain", doc! { "place": "2dsphere" }, doc! {}),
        index("wildcard index", "plain", doc! { "any.$**": 1 }, doc! {}),
        index("hidden index", "plain", doc! { "hid": 1 }, doc! { "hidden": true }),
        index("index with a collation", "words", doc! { "w": 1 }, doc! { "collation": { "locale": "fr" } }),
        index("index of a time series", "points", doc! { "m": 1, "t": -1 }, doc! {}),
        index("column index", "plain", doc! { "$**": "columnstore" }, doc! {}),
    ]
}

async fn insert(client: &Client) -> Result<()> {
    let db = client.database(DATABASES[0]);
    let plain = (0..200).map(|n| {
        let mut document = doc! { "_id": n, "n": n, "s": n % 7, "p": n % 11, "at": DateTime::from_millis(FIRST_MS + i64::from(n)), "text": format!("Haus {n}"), "h": n % 5, "hid": n % 3, "any": { "a": n } };
        document.insert("place", doc! { "type": "Point", "coordinates": [f64::from(n % 90), f64::from(n % 45)] });
        document
    });
    db.collection("plain").insert_many(plain).await.context("insert documents")?;
    db.collection("plain").insert_many(values()).await.context("insert a document for each type of value")?;
    db.collection("ring")
        .insert_many((0..60).map(|n| doc! { "_id": n }))
        .await
        .context("insert into the capped collection")?;
    db.collection("words")
        .insert_many([doc! { "_id": "Straße", "w": "a" }, doc! { "_id": "cote", "w": "é" }])
        .await
        .context("insert words")?;
    db.collection("strict")
        .insert_many([doc! { "_id": 1, "n": 1 }, doc! { "_id": 2, "n": "no number" }])
        .await
        .context("insert")?;
    let points = (0..500).map(|n| doc! { "t": DateTime::from_millis(FIRST_MS + n * 30_000), "m": n % 4, "v": n });
    db.collection("points").insert_many(points).await.context("insert points")?;
    db.collection("clustered").insert_many((0..50).map(|n| doc! { "_id": n })).await.context("insert")?;
    db.collection("images").insert_one(doc! { "_id": 1 }).await.context("insert")?;
    let more = client.database(DATABASES[1]);
    more.collection("chosen").insert_many((0..100).map(|n| doc! { "_id": n })).await.context("insert")?;
    more.collection("other").insert_many((0..100).map(|n| doc! { "_id": n })).await.context("insert")?;
    Ok(())
}

/// A document for each type of value.
fn values() -> Vec<Document> {
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let all = [
        Bson::Double(f64::NAN),
        Bson::Double(-0.0),
        Bson::Int64(i64::MIN),
        Bson::Boolean(false),
        Bson::Null,
        Bson::Undefined,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Symbol("symbol".into()),
        Bson::JavaScriptCode("1 + 1".into()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "x".into(), scope: doc! { "x": 1 } }),
        Bson::Timestamp(Timestamp { time: 7, increment: 8 }),
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::DateTime(DateTime::MIN),
        binary(BinarySubtype::Generic, &[0; 300]),
        binary(BinarySubtype::Uuid, &[9; 16]),
        binary(BinarySubtype::UserDefined(200), &[]),
        Bson::Array(vec![1.into(), doc! { "": Bson::Null }.into()]),
        Bson::String("ü€😀".into()),
    ];
    let cstr = |text: &str| bson::raw::CString::try_from(text.to_owned()).ok();
    let regex =
        cstr("^a").zip(cstr("im")).map(|(pattern, options)| Bson::RegularExpression(Regex { pattern, options }));
    let decimal = Decimal128::from_str("1.000E+6144").map(Bson::Decimal128).ok();
    let all = all.into_iter().chain(regex).chain(decimal);
    (1000..).zip(all).map(|(id, value)| doc! { "_id": id, "n": id, "value": value }).collect()
}
