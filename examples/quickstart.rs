//! A private replica set, an agent, a backup, a loss, a restore: explained while it happens.
//!
//! Run by `dev/quickstart.sh`, which fetches a mongod first. With `--keep` the sandbox stays until Ctrl-C.

// The test suite's servers are exactly what a sandbox needs.
#[path = "../tests/support/cluster.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod cluster;
#[path = "../tests/support/wait.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wait;

use anyhow::{Context, Result, bail, ensure};
use cluster::{Folder, Options, ReplicaSet};
use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, IndexModel};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The agent, ended with its handle.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Sandbox {
    bin: Folder,
    uri: String,
}

impl Sandbox {
    fn program(&self, name: &str) -> PathBuf {
        self.bin.path().join(name)
    }

    /// Shows a command as one would type it, and runs it.
    fn pbm(&self, args: &[&str]) -> Result<()> {
        println!("\n  $ pbm {}", args.join(" "));
        let done = Command::new(self.program("pbm"))
            .env("PBM_MONGODB_URI", &self.uri)
            .args(args)
            .output()
            .context("run pbm")?;
        for line in String::from_utf8_lossy(&done.stdout).lines().chain(String::from_utf8_lossy(&done.stderr).lines()) {
            println!("    {line}");
        }
        ensure!(done.status.success(), "pbm {} failed", args.join(" "));
        Ok(())
    }

    fn last_backup(&self) -> Result<String> {
        let list = Command::new(self.program("pbm"))
            .env("PBM_MONGODB_URI", &self.uri)
            .args(["list", "-o", "json"])
            .output()
            .context("run pbm list")?;
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).context("read the answer of pbm list")?;
        let name = list["snapshots"][0]["name"].as_str().context("pbm list names no backup")?;
        Ok(name.to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let keep = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--keep") => true,
        Some(other) => bail!("unknown option '{other}'; the only one is --keep"),
    };
    println!("1. A MongoDB of its own: one mongod, as a replica set, in a temporary folder.");
    let set = ReplicaSet::start(Options::default()).await;
    println!("   It listens on {}.", set.address_of(0));
    let client = set.client().await;

    println!(
        "\n2. The agent, which does the work. One runs beside every mongod. The command line is a link to the same file."
    );
    let bin = Folder::new("bin");
    let built =
        std::env::current_exe()?.parent().and_then(Path::parent).context("find the build folder")?.join("pbmbox");
    ensure!(built.exists(), "{} is not built; run dev/quickstart.sh", built.display());
    for name in ["pbm", "pbm-agent"] {
        symlink(&built, bin.path().join(name)).with_context(|| format!("link {name}"))?;
    }
    let sandbox = Sandbox { bin, uri: set.uri() };
    println!("  $ export PBM_MONGODB_URI='{}'", sandbox.uri);
    println!("  $ pbm-agent &");
    let log = sandbox.program("agent.log");
    let _agent = Agent(
        Command::new(sandbox.program("pbm-agent"))
            .env("PBM_MONGODB_URI", set.uri_of(0))
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("start pbm-agent")?,
    );
    wait::until("the agent to report", Duration::from_secs(30), async || {
        let agents = client.database("admin").collection::<Document>("pbmAgents");
        agents.find_one(doc! {}).await.ok().flatten()
    })
    .await;

    println!("\n3. Some data: a shop with orders, their indexes, a view and a time series.");
    fill(&client).await?;
    let before = fingerprint(&client).await?;
    println!("   {} documents in {} collections.", before.documents, before.collections);

    println!("\n4. Where backups go: one file of settings, once per cluster.");
    let store = Folder::new("backups");
    let file = sandbox.program("pbm.yaml");
    let settings = format!("storage:\n  type: filesystem\n  filesystem:\n    path: {}\n", store.path().display());
    fs::write(&file, &settings).context("write the settings")?;
    settings.lines().for_each(|line| println!("    {line}"));
    sandbox.pbm(&["config", "--file", &file.display().to_string(), "--wait"])?;

    println!("\n5. A backup. It is consistent although writes may go on: it holds the oplog of its own duration.");
    sandbox.pbm(&["backup", "--wait"])?;
    sandbox.pbm(&["list"])?;

    println!("\n6. The accident: the whole database is dropped.");
    client.database("shop").drop().await.context("drop the database")?;
    ensure!(fingerprint(&client).await?.documents == 0, "the data is still there");

    println!("\n7. The restore.");
    let name = sandbox.last_backup()?;
    sandbox.pbm(&["restore", &name, "--wait", "--yes"])?;

    println!("\n8. Is everything back?");
    let after = fingerprint(&client).await?;
    ensure!(before == after, "the restored data differs:\n{before:?}\n{after:?}");
    println!(
        "   Yes: {} documents in {} collections, every byte and every index as before.",
        after.documents, after.collections
    );

    if keep {
        println!("\nThe sandbox stays until Ctrl-C. In another terminal:");
        println!("  export PBM_MONGODB_URI='{}' PATH='{}':$PATH", sandbox.uri, sandbox.bin.path().display());
        println!("  pbm status");
        println!("The agent's log: {}", log.display());
        tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
    } else {
        println!("\nEverything is removed again. Run with --keep to play with the sandbox.");
    }
    Ok(())
}

async fn fill(client: &Client) -> Result<()> {
    let shop = client.database("shop");
    let orders = shop.collection::<Document>("orders");
    for part in 0..10 {
        let some = (0..2000).map(|n| {
            let id = part * 2000 + n;
            doc! {
                "_id": id, "sku": format!("sku-{}", id % 97), "qty": id % 7,
                "at": DateTime::from_millis(1_700_000_000_000 + i64::from(id) * 60_000), "note": "thank you ".repeat(5),
            }
        });
        orders.insert_many(some).await.context("insert orders")?;
    }
    let hidden = IndexOptions::builder().name("by_qty".to_owned()).hidden(true).build();
    orders
        .create_indexes([
            IndexModel::builder().keys(doc! { "sku": 1, "at": -1 }).build(),
            IndexModel::builder().keys(doc! { "qty": 1 }).options(hidden).build(),
        ])
        .await
        .context("create indexes")?;
    shop.run_command(doc! { "create": "big_orders", "viewOn": "orders", "pipeline": [{ "$match": { "qty": 6 } }] })
        .await
        .context("create a view")?;
    shop.run_command(doc! { "create": "visits", "timeseries": { "timeField": "t", "metaField": "page" } })
        .await
        .context("create a time series")?;
    let visits =
        (0..1000).map(|n| doc! { "t": DateTime::from_millis(1_700_000_000_000 + n * 1000), "page": n % 5, "ms": n });
    shop.collection::<Document>("visits").insert_many(visits).await.context("insert visits")?;
    Ok(())
}

/// What can be compared before and after.
#[derive(Debug, PartialEq)]
struct Fingerprint {
    collections: usize,
    documents: u64,
    hashes: Vec<(String, String)>,
    indexes: Vec<String>,
}

async fn fingerprint(client: &Client) -> Result<Fingerprint> {
    let shop = client.database("shop");
    let mut names = shop.list_collection_names().await.context("list collections")?;
    names.retain(|name| !name.starts_with("system."));
    names.sort();
    let mut print = Fingerprint { collections: names.len(), documents: 0, hashes: Vec::new(), indexes: Vec::new() };
    for name in &names {
        let count = shop.collection::<Document>(name).count_documents(doc! {}).await.context("count")?;
        let kind = shop.run_cursor_command(doc! { "listCollections": 1, "filter": { "name": name } }).await?;
        let kind: Vec<Document> = kind.try_collect().await?;
        if kind[0].get_str("type")? != "view" {
            print.documents += count;
            let indexes: Vec<Document> =
                shop.run_cursor_command(doc! { "listIndexes": name }).await?.try_collect().await?;
            print.indexes.extend(indexes.iter().map(|index| format!("{name}: {index}")));
        }
        let sorted = shop.collection::<Document>(name).find(doc! {}).sort(doc! { "_id": 1 }).await?;
        let all: Vec<Document> = sorted.try_collect().await?;
        print.hashes.push((name.clone(), format!("{count} {:x}", crc64(&all)?)));
    }
    print.indexes.sort();
    Ok(print)
}

fn crc64(documents: &[Document]) -> Result<u64> {
    let mut digest = crc64fast::Digest::new();
    for document in documents {
        digest.write(&document.to_vec()?);
    }
    Ok(digest.sum64())
}
