//! The data of a logical backup: the steps of a restore on a temporary replica set of one member.

use super::{CACHE_GB, Wish};
use crate::datafiles::{program::Program, server::Launch};
use crate::replay::txn::Committed;
use crate::restore::{
    plan::namespaces,
    steps::{Order, Steps},
};
use crate::snapshot::load::LoadOptions;
use crate::storage::Storage;
use anyhow::{Context as _, Result, bail};
use bson::{Document, doc};
use mongodb::Client;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the only member may take to elect itself.
const ELECTED_WITHIN: Duration = Duration::from_secs(60);
/// Time between two looks whether it is elected.
const LOOK: Duration = Duration::from_millis(50);

/// Restores what is wanted into the empty folder `data`.
pub(super) async fn bring(
    storage: Arc<dyn Storage>,
    wish: Wish,
    program: &Program,
    data: &Path,
    cancel: &CancellationToken,
) -> Result<()> {
    // The replay of the oplog needs a member of a replica set.
    let launch = Launch::new(program, data).argument(format!("--replSet={}", wish.rs)).cache_gb(CACHE_GB);
    let server = launch.start().await?;
    let done = async {
        initiate(server.client(), &wish.rs, server.address()).await?;
        Box::pin(restore(storage, server.client().clone(), wish, cancel)).await
    };
    match done.await {
        Ok(()) => server.stop().await,
        // Its log has nothing about an error of the storage or the plan.
        Err(error) => Err(error),
    }
}

async fn initiate(client: &Client, rs: &str, address: String) -> Result<()> {
    let admin = client.database("admin");
    let config = doc! { "_id": rs, "members": [{ "_id": 0, "host": address }] };
    admin.run_command(doc! { "replSetInitiate": config }).await.context("make a replica set of one member")?;
    let until = Instant::now() + ELECTED_WITHIN;
    loop {
        let hello: Document = admin.run_command(doc! { "hello": 1 }).await.context("run hello")?;
        if hello.get_bool("isWritablePrimary").unwrap_or(false) {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!("the temporary replica set has had no primary for {} s", ELECTED_WITHIN.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn restore(storage: Arc<dyn Storage>, client: Client, wish: Wish, cancel: &CancellationToken) -> Result<()> {
    let Wish { backup, rs, selection, point } = wish;
    let wish = namespaces::Wish::of(selection, false, &backup)?;
    let order = Order {
        backup,
        rs,
        wish,
        load: LoadOptions::default(),
        quorum: "".parse()?,
        point,
        sharded: false,
        ids: BTreeMap::new(),
        places: BTreeMap::new(),
    };
    let steps = Steps::prepare(storage, client, order).await?;
    for warning in &steps.plan().warnings {
        tracing::warn!("{warning}");
    }
    let steps = steps.drop(cancel).await?;
    let (steps, _) = steps.load(cancel).await?;
    steps.put_users_back(cancel).await?;
    let steps = steps.put_routing_back(&BTreeSet::new(), cancel).await?;
    let own = async |mine: &[Committed]| Ok(mine.iter().map(|txn| txn.id.clone()).collect());
    let (steps, _) = steps.replay(cancel, own).await?;
    steps.finish(cancel).await.map(drop)
}
