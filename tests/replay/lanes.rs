//! Operations that are applied at the same time: what is kept in order, and what is said when some fail.

use mongodb::bson::{Document, Uuid, doc};
use pbmbox::archive::meta::NamespaceMeta;

use super::cases::{Case, collection, ids};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_document_goes_through_its_states_in_their_order() {
    let uuid = Uuid::new();
    let mut case = Case::new(vec![collection("c", uuid, doc! {}, vec![])]).await;
    case.fuzzy_until = 1;
    const DOCUMENTS: i32 = 40;
    for round in 0..12 {
        for id in 0..DOCUMENTS {
            // An `_id` of another type is the same one: the delete of the last round has to come first.
            let this = if round % 2 == 0 {
                doc! {"_id": id}
            } else {
                doc! {"_id": f64::from(id)}
            };
            let full = doc! {"_id": this.get("_id").unwrap().clone(), "n": 0};
            case = case.op("i", "c", uuid, full).update("c", uuid, id, doc! {"u": {"n": round}});
            if round < 11 {
                case = case.op("d", "c", uuid, this);
            }
        }
    }
    // Many batches, each of which is read while the one before is applied.
    let replayed = case.replay_with(|options| (options.batch_bytes, options.lanes) = (3000, 4)).await;
    let stats = replayed.unwrap_or_else(|error| panic!("{error:#}")).stats;
    assert_eq!((stats.applied, stats.missing_documents), (12 * 3 * 40 - 40, 0));
    let mut found = case.documents("c").await;
    found.sort_by_key(|document| document.get_f64("_id").unwrap() as i32);
    let expected: Vec<Document> = (0..DOCUMENTS).map(|id| doc! {"_id": f64::from(id), "n": 11}).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_unique_index_a_value_is_given_up_before_another_document_takes_it() {
    let uuid = Uuid::new();
    let dump = collection("c", uuid, doc! {}, vec![doc! {"_id": 0, "u": "the one"}]);
    let unique = doc! {"v": 2, "key": {"u": 1}, "name": "u", "unique": true};
    let meta = NamespaceMeta { indexes: Some(vec![unique.clone()]), ..dump.meta.clone() };
    let mut case = Case::new(vec![dump]).await;
    case.server.run("t", doc! {"createIndexes": "c", "indexes": [unique]}).await.unwrap();
    let _ = case.catalog.add(&meta);
    case.catalog.keep_order(&meta);
    for id in 0..400 {
        case = case.op("d", "c", uuid, doc! {"_id": id}).op("i", "c", uuid, doc! {"_id": id + 1, "u": "the one"});
    }
    let replayed = case.replay_with(|options| (options.batch_bytes, options.lanes) = (9000, 4)).await;
    assert_eq!(replayed.unwrap_or_else(|error| panic!("{error:#}")).stats.applied, 800);
    assert_eq!(case.documents("c").await, [doc! {"_id": 400, "u": "the one"}]);
}

#[tokio::test]
async fn of_several_lanes_that_fail_the_first_operation_is_named() {
    let uuid = Uuid::new();
    let mut case = Case::new(vec![collection("c", uuid, doc! {}, ids(0..100))]).await;
    case.fuzzy_until = 1;
    for id in (0..100).chain(500..600) {
        case = case.update("c", uuid, id, doc! {"i": {"x": 1}});
    }
    let error = format!("{:#}", case.replay_with(|options| options.lanes = 4).await.unwrap_err());
    assert!(error.contains("update in t.c") && error.contains("{ \"_id\": 500 }"), "{error}");
    assert!(error.contains("the document is not there"), "{error}");
    // What came before it was applied, in every lane.
    let changed = case.documents("c").await.iter().filter(|document| document.contains_key("x")).count();
    assert_eq!(changed, 100);
}

#[tokio::test]
async fn a_collection_that_is_gone_is_missed_once_by_each_operation_of_every_lane() {
    let (gone, there) = (Uuid::new(), Uuid::new());
    let mut case =
        Case::new(vec![collection("gone", gone, doc! {}, vec![]), collection("there", there, doc! {}, vec![])]).await;
    case.server.run("t", doc! {"drop": "gone"}).await.unwrap();
    for id in 0..100 {
        case = case.op("i", "gone", gone, doc! {"_id": id}).op("i", "there", there, doc! {"_id": id});
    }
    let replayed = case.replay_with(|options| options.lanes = 4).await.unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(replayed.stats.missing_collections, 100);
    assert_eq!(case.ids("there").await.len(), 100);
}
