//! `pbm serve`: a read-only server on the data of a backup.

use crate::support::cluster::{Folder, Options, Version, binary};
use crate::support::programs::{Sandbox, signal};
use crate::support::wait;
use bson::{Document, doc};
use mongodb::Client;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    time::Duration,
};

/// A `pbm serve` that runs.
struct Serving {
    process: Child,
    client: Client,
}

impl Serving {
    async fn start(sandbox: &Sandbox, folder: &Folder, args: &[&str]) -> Self {
        let mut command = sandbox.programs.command("pbm");
        let store = sandbox.store().display().to_string();
        let (mongod, _) = binary(Version::Current);
        command.args(["serve", "-o", "json", "--dir", &store, "--mongod", &mongod.display().to_string()]);
        command.arg("--folder").arg(folder.path()).args(args).stdout(Stdio::piped());
        let mut process = command.spawn().expect("run pbm");
        let line = tokio::task::block_in_place(|| {
            let mut line = String::new();
            let out = process.stdout.as_mut().expect("its output");
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let said: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let uri = said["uri"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();
        let client = Client::with_uri_str(uri).await.expect("connect");
        Self { process, client }
    }

    async fn orders(&self) -> Vec<i32> {
        use futures::TryStreamExt as _;
        let orders = self.client.database("shop").collection::<Document>("orders");
        let orders: Vec<Document> =
            orders.find(doc! {}).sort(doc! { "_id": 1 }).await.expect("find").try_collect().await.expect("find");
        orders.iter().map(|order| order.get_i32("_id").expect("_id")).collect()
    }

    async fn end(mut self) {
        signal(self.process.id(), "INT");
        let ended = wait::until("its end", Duration::from_secs(20), async || self.process.try_wait().expect("wait"));
        assert!(ended.await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_a_later_moment_of_it_can_be_read_without_a_cluster() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    let shop = client.database("shop");
    let orders = shop.collection::<Document>("orders");
    orders.insert_many((0..3).map(|id| doc! { "_id": id })).await.expect("insert");
    shop.run_command(doc! { "createIndexes": "orders", "indexes": [{ "key": { "n": 1 }, "name": "n_1" }] })
        .await
        .expect("an index");
    client.database("crm").collection("notes").insert_one(doc! { "_id": 1 }).await.expect("insert");
    let name = tokio::task::block_in_place(|| {
        let name = sandbox.backup(&[]);
        sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
        name
    });
    let wanted = shop.run_command(doc! { "insert": "orders", "documents": [{ "_id": 3 }] }).await.expect("insert");
    let at = wanted.get_timestamp("operationTime").expect("a time");
    orders.delete_many(doc! {}).await.expect("delete");
    // Its question can't be answered here, but first it has all oplog saved.
    let asked = tokio::task::block_in_place(|| sandbox.pbm(&["restore", "--time", "latest"]));
    assert_eq!(asked.status.code(), Some(4), "{}", asked.stderr);

    let folder = Folder::new("serve");
    let moment = format!("{},{}", at.time, at.increment);
    let end = Serving::start(&sandbox, &folder, &[&name]).await;
    assert_eq!(end.orders().await, [0, 1, 2]);
    let copy = end.client.database("shop");
    let indexes = copy.collection::<Document>("orders").list_index_names().await.expect("indexes");
    assert_eq!(indexes, ["_id_", "n_1"]);
    let refused = copy.collection("orders").insert_one(doc! { "_id": 9 }).await.expect_err("it is read-only");
    assert!(refused.to_string().contains("read-only"), "{refused}");
    end.end().await;
    let later = Serving::start(&sandbox, &folder, &[&name, "--time", &moment, "--ns", "shop.*"]).await;
    assert_eq!(later.orders().await, [0, 1, 2, 3]);
    assert_eq!(later.client.database("crm").list_collection_names().await.expect("collections"), [""; 0]);
    later.end().await;
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing remains");
    assert!(orders.find_one(doc! {}).await.expect("find").is_none(), "the cluster is as it was");

    // The same from files.
    let insert = doc! { "insert": "orders", "documents": [{ "_id": 5 }] };
    shop.run_command(insert).await.expect("insert");
    let files = tokio::task::block_in_place(|| sandbox.backup(&["--type", "physical", "--allow-lock-on-only-member"]));
    let wanted = shop.run_command(doc! { "insert": "orders", "documents": [{ "_id": 6 }] }).await.expect("insert");
    let after = wanted.get_timestamp("operationTime").expect("a time");
    orders.delete_many(doc! {}).await.expect("delete");
    let asked = tokio::task::block_in_place(|| sandbox.pbm(&["restore", "--time", "latest"]));
    assert_eq!(asked.status.code(), Some(4), "{}", asked.stderr);
    let end = Serving::start(&sandbox, &folder, &[&files]).await;
    assert_eq!(end.orders().await, [5]);
    let refused = end.client.database("shop").collection("orders").insert_one(doc! { "_id": 9 }).await;
    assert!(refused.expect_err("it is read-only").to_string().contains("read-only"));
    end.end().await;
    let moment = format!("{},{}", after.time, after.increment);
    let later = Serving::start(&sandbox, &folder, &[&files, "--time", &moment]).await;
    assert_eq!(later.orders().await, [5, 6]);
    later.end().await;

    let (mongod, _) = binary(Version::Current);
    let serve = |more: &[&str]| {
        let place = ["serve", &name, "--mongod", &mongod.display().to_string(), "--folder"];
        let mut args: Vec<&str> = place.to_vec();
        let folder = folder.path().display().to_string();
        args.push(&folder);
        args.extend(more);
        tokio::task::block_in_place(|| sandbox.pbm(&args))
    };
    // Through the cluster, for one command.
    let shown = serve(&["--exec", "echo at"]).ok();
    assert!(shown.stdout.starts_with("at mongodb://%2F"), "{}", shown.stdout);
    let failed = serve(&["--exec", "test -z $PBM_SERVE_URI"]).failed();
    assert!(failed.stderr.contains("the command of --exec ended with exit status: 1"), "{}", failed.stderr);
    let too_late = serve(&["--time", &format!("{},1", at.time + 9999)]).failed();
    assert!(too_late.stderr.contains("this moment can't be served"), "{}", too_late.stderr);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing remains");
}
