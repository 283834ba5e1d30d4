//! What servers answer that can't be had for these tests, played by a proxy in front of one that can
//! ([`crate::support::doctored`]).

use crate::support::cluster::{Options, ReplicaSet};
use crate::support::doctored::Doctor;
use bson::doc;

#[tokio::test(flavor = "multi_thread")]
async fn a_doctored_server_answers_as_it_is_told() {
    let doctor = Doctor::version("8.0.4", "8.0").with_type("plain", "strange").without_buckets();
    let doctor = doctor.refuse(13, "Unauthorized", "not here", |asked| asked.coll() == "secret");
    let set = ReplicaSet::start(Options { members: 2, doctor: Some(doctor), ..Options::default() }).await;
    let client = set.client().await;
    let version = client.database("admin").run_command(doc! { "buildInfo": 1 }).await.expect("the version");
    assert_eq!(version.get_str("version").expect("text"), "8.0.4");
    let db = client.database("shop");
    for command in [
        doc! { "insert": "plain", "documents": [{ "_id": 1 }], "writeConcern": { "w": 2 } },
        doc! { "create": "series", "timeseries": { "timeField": "t" } },
    ] {
        db.run_command(command).await.expect("a command that is passed on");
    }
    let listed = db.run_command(doc! { "listCollections": 1, "nameOnly": true }).await.expect("a list");
    let listed = listed.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).expect("a batch");
    let text =
        |it: &bson::Bson, key: &str| it.as_document().expect("a document").get_str(key).expect("text").to_owned();
    let mut types: Vec<_> = listed.iter().map(|it| (text(it, "name"), text(it, "type"))).collect();
    types.sort();
    let expected = [("plain", "strange"), ("series", "timeseries"), ("system.views", "collection")];
    assert_eq!(types, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    let refused = db.run_command(doc! { "find": "secret" }).await.expect_err("refused").to_string();
    assert!(refused.contains("not here"), "{refused}");
}
