use super::super::fixture::{self, SELECTIVE, SHARDED};
use super::*;
use crate::{
    archive::backup_json,
    storage::{memory::Memory, read_all, write_all},
};

async fn meta(store: &Memory, name: &str) -> BackupMeta {
    let bytes = read_all(store, &layout::backup_meta(name), 1 << 20).await.expect("read");
    backup_json::read(&bytes).expect("decode")
}

async fn problems(store: &Memory, name: &str, depth: Depth) -> Vec<String> {
    let found = backup(store, &meta(store, name).await, depth).await.expect("verify");
    found.iter().map(ToString::to_string).collect()
}

fn at(name: &str, path: &str) -> String {
    format!("{name}/{path}")
}

#[tokio::test]
async fn backups_of_the_original_are_whole() {
    let store = fixture::load().await;
    for name in [SHARDED, SELECTIVE] {
        for depth in [Depth::Files, Depth::Content] {
            assert_eq!(problems(&store, name, depth).await, [""; 0], "{name} {depth:?}");
        }
    }
}

#[tokio::test]
async fn every_object_counts() {
    let intact = fixture::load().await;
    let slices: Vec<_> = intact.names().into_iter().filter(|name| name.contains("/oplog/")).collect();
    let data =
        [at(SHARDED, "rs1/metadata.json"), at(SHARDED, "rs1/shop.orders.zst"), at(SHARDED, "cfgrs/config.shards.zst")];
    for name in data {
        let store = fixture::load().await;
        store.delete(&name).await.expect("delete");
        assert_eq!(problems(&store, SHARDED, Depth::Files).await, [format!("'{name}' is missing")]);
        write_all(&store, &name, "").await.expect("put");
        assert_eq!(problems(&store, SHARDED, Depth::Files).await, [format!("'{name}' is empty")]);
    }
    for name in slices.iter().filter(|name| name.starts_with(SHARDED)) {
        let store = fixture::load().await;
        write_all(&store, name, "").await.expect("put");
        let found = problems(&store, SHARDED, Depth::Files).await;
        assert_eq!(found[0], format!("'{name}' is empty"));
        assert!(found[1].contains("lacks the oplog"), "{found:?}");
        store.delete(name).await.expect("delete");
        let found = backup(&store, &meta(&store, SHARDED).await, Depth::Files).await.expect("verify");
        assert!(matches!(&*found, [one] if one.is_warning()), "{found:?}");
    }
    // `meta.pbm` is not needed for anything.
    let store = fixture::load().await;
    store.delete(&at(SHARDED, "rs1/meta.pbm")).await.expect("delete");
    assert_eq!(problems(&store, SHARDED, Depth::Files).await, [""; 0]);
}

#[tokio::test]
async fn damage_shows_when_everything_is_read() {
    let name = at(SELECTIVE, "rs0/shop.orders.gz");
    let slice = |store: &Memory| {
        let names = store.names();
        names.into_iter().find(|name| name.starts_with(SELECTIVE) && name.contains("/oplog/")).expect("a slice")
    };
    for (what, words) in [("cut", "cannot be read"), ("other", "bytes of documents"), ("slice", "cannot be read")] {
        let store = fixture::load().await;
        let name = if what == "slice" { slice(&store) } else { name.clone() };
        let mut bytes = read_all(&store, &name, 1 << 30).await.expect("read").to_vec();
        match what {
            "other" => bytes = read_all(&store, &slice(&store), 1 << 30).await.expect("read").to_vec(),
            _ => bytes.truncate(bytes.len() / 2),
        }
        write_all(&store, &name, bytes).await.expect("put");
        assert_eq!(problems(&store, SELECTIVE, Depth::Files).await, [""; 0], "{what}");
        let found = problems(&store, SELECTIVE, Depth::Content).await;
        assert!(matches!(&*found, [one] if one.contains(&name) && one.contains(words)), "{what}: {found:?}");
    }
}

#[tokio::test]
async fn checksums_are_compared() {
    let store = fixture::load().await;
    let name = at(SELECTIVE, "rs0/metadata.json");
    let text = String::from_utf8(read_all(&store, &name, 1 << 20).await.expect("read").to_vec()).expect("text");
    let crc = text.split("\"crc\"").nth(1).and_then(|rest| rest.split('"').nth(3)).expect("a checksum");
    assert!(crc.parse::<i64>().is_ok(), "{crc}");
    write_all(&store, &name, text.replace(crc, "1")).await.expect("put");
    let found = problems(&store, SELECTIVE, Depth::Content).await;
    assert!(matches!(&*found, [one] if one.contains("checksum")), "{found:?}");
    write_all(&store, &name, &b"{\"namespaces\": [{}]}"[..]).await.expect("put");
    let found = problems(&store, SELECTIVE, Depth::Files).await;
    assert!(matches!(&*found, [one] if one.contains("metadata.json' is damaged")), "{found:?}");
}

/// What was written is noted, so an object that was cut since shows without being read.
#[tokio::test]
async fn sizes_that_were_written_are_compared() {
    let store = fixture::load().await;
    let (name, folder) = (at(SELECTIVE, "rs0/metadata.json"), at(SELECTIVE, "rs0/"));
    let mut described = described::read(&store, &name).await.expect("read");
    for object in store.names().iter().filter(|object| object.starts_with(&folder) && **object != name) {
        let stored = i64::try_from(store.stat(object).await.expect("stat").size).expect("a small one");
        described.written.push(Written { name: object[folder.len()..].to_owned(), stored, content: None });
    }
    assert!(described.written.len() > 1);
    write_all(&store, &name, crate::archive::meta::write_metadata_json(&described)).await.expect("put");
    assert_eq!(problems(&store, SELECTIVE, Depth::Files).await, [""; 0]);
    for written in described.written.iter().filter(|written| written.name != "meta.pbm") {
        let object = format!("{folder}{}", written.name);
        let whole = read_all(&store, &object, 1 << 30).await.expect("read");
        write_all(&store, &object, whole.slice(..whole.len() / 2)).await.expect("put");
        let found = problems(&store, SELECTIVE, Depth::Files).await;
        let words = format!("'{object}' is damaged: it has {} bytes in place of the {}", whole.len() / 2, whole.len());
        assert!(matches!(&*found, [one] if one.starts_with(&words)), "{found:?}");
        write_all(&store, &object, whole).await.expect("put");
    }
}

#[tokio::test]
async fn other_types_and_versions() {
    let store = Memory::new();
    let mut meta = meta(&fixture::load().await, SELECTIVE).await;
    let shown = async |store: &Memory, meta: &BackupMeta| {
        let found = backup_files(store, meta).await.expect("verify");
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    meta.pbm_version = "1.8.1".to_owned();
    meta.replsets[0].dump_name = "b_rs0.dump".to_owned();
    meta.replsets[0].oplog_name = "b_rs0.oplog".to_owned();
    assert_eq!(shown(&store, &meta).await, ["'b_rs0.dump' is missing", "'b_rs0.oplog' is missing"]);
    write_all(&store, "b_rs0.dump", "").await.expect("put");
    write_all(&store, "b_rs0.oplog", "").await.expect("put");
    assert_eq!(shown(&store, &meta).await, ["'b_rs0.dump' is empty", "'b_rs0.oplog' is empty"]);
    meta.pbm_version = "2.3.0".to_owned();
    assert_eq!(shown(&store, &meta).await, ["'b_rs0.dump' is empty", "'b_rs0.oplog' is empty"]);
    meta.kind = BackupType::Physical;
    assert_eq!(shown(&store, &meta).await, [format!("'{SELECTIVE}/rs0/filelist.pbm' is missing")]);
    meta.kind = BackupType::External;
    assert_eq!(shown(&store, &meta).await, [""; 0]);
    meta.kind = BackupType::Logical;
    meta.store.kind = "blackhole".to_owned();
    assert_eq!(shown(&store, &meta).await, [""; 0]);
}

#[tokio::test]
async fn objects_that_listings_hide_are_found() {
    let store = fixture::load().await;
    let check = Check { store: &store, depth: Depth::Files, longest: u64::MAX };
    let name = at(SELECTIVE, "rs0/shop.orders.gz");
    assert_eq!(check.objects(&[name], &HashMap::new()).await.expect("objects"), []);
    let nonsense = check.objects(&["../x".to_owned()], &HashMap::new()).await.expect("objects");
    assert_eq!(nonsense, [Problem::new("../x", What::Missing)]);
}
