//! A bank on a sharded cluster. Money only moves, so the sum of all balances tells whether a restored state is one that
//! the cluster as a whole has had.

use crate::replay::workload::Pace;
use crate::support::sharded::{Router, ShardedCluster, Table, Transaction};
use crate::support::wire::Refusal;
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

pub const ACCOUNTS: &str = "bank.accounts";
/// The accounts of transactions that are held prepared for long. Its chunks stay: a move would wait for them.
pub const VAULT: &str = "bank.vault";
/// On each side of 0.
const COUNT: i64 = 50;
const BALANCE: i64 = 1000;
/// In each of the two collections.
pub const TOTAL: i64 = 2 * COUNT * BALANCE;
/// One in every chunk of the accounts.
const CHUNKS: [i64; 4] = [-30, -10, 10, 30];

/// Two collections, the negative keys of each on the first shard and the others on the second.
pub async fn open(cluster: &ShardedCluster) {
    let [first, second] = [0, 1].map(|n: usize| cluster.shards[n].id.clone());
    cluster.create_database("bank", &first).await;
    let mut router = cluster.router().await;
    for ns in [ACCOUNTS, VAULT] {
        cluster.shard_collection(ns, "_id").await;
        cluster.split(ns, 0).await;
        cluster.move_chunk(ns, 0, &second).await.expect("move a chunk");
        for key in -COUNT..COUNT {
            router.insert(ns, doc! { "_id": key, "balance": BALANCE }).await;
        }
    }
    cluster.split(ACCOUNTS, -20).await;
    cluster.split(ACCOUNTS, 20).await;
}

/// The sum of these balances.
pub fn sum<'a>(documents: impl IntoIterator<Item = &'a Document>) -> i64 {
    documents.into_iter().map(|document| document.get_i64("balance").expect("a balance")).sum()
}

#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    Abort,
    /// Both phases by hand, the shards in any order.
    CommitByHand,
    AbortPrepared,
}

/// Moves money about.
pub struct Teller {
    router: Router,
    rng: StdRng,
    /// Keys of accounts of its own: opened and closed, never with money.
    own: std::ops::Range<i64>,
    open: Vec<i64>,
    /// Statistics, to see that the test tests something.
    pub done: BTreeMap<String, usize>,
}

impl Teller {
    pub async fn new(cluster: &ShardedCluster, seed: u64, number: i64) -> Self {
        let first = 1000 + number * 1000;
        let router = cluster.router().await;
        let rng = StdRng::seed_from_u64(seed);
        Self { router, rng, own: first..first + 1000, open: Vec::new(), done: BTreeMap::new() }
    }

    /// Works until told to stop, and counts its steps.
    pub async fn run_until(mut self, stop: Arc<AtomicBool>, steps: watch::Sender<u64>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.step().await;
            steps.send_modify(|steps| *steps += 1);
        }
        self
    }

    fn account(&mut self) -> i64 {
        self.rng.random_range(-COUNT..COUNT)
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..15 => {
                let key = self.account();
                let found = self.router.update(ACCOUNTS, key, doc! { "$inc": { "visits": 1_i64 } }).await;
                assert_eq!(found, 1, "account {key}");
                self.count("plain update".into());
            }
            15..25 => self.open_or_close().await,
            25..45 => {
                let from = self.account();
                let same = |key: &i64| *key != from && (*key < 0) == (from < 0);
                let to: Vec<i64> = (-COUNT..COUNT).filter(same).collect();
                let to = to[self.rng.random_range(0..to.len())];
                self.transfer("near", &[(from, to)]).await;
            }
            45..85 => {
                let (from, to) = (self.rng.random_range(-COUNT..0), self.rng.random_range(0..COUNT));
                let pair = if self.rng.random() { (from, to) } else { (to, from) };
                self.transfer("far", &[pair]).await;
            }
            // More operations on each shard than one entry of the oplog holds.
            _ => {
                let (from, to) = (self.rng.random_range(-COUNT..-10), self.rng.random_range(0..COUNT - 10));
                let pairs: Vec<(i64, i64)> = (0..9).map(|n| (from + n, to + n)).collect();
                self.transfer("large", &pairs).await;
            }
        }
    }

    fn count(&mut self, what: String) {
        *self.done.entry(what).or_default() += 1;
    }

    async fn open_or_close(&mut self) {
        if self.open.len() > 5 {
            let key = self.open.swap_remove(self.rng.random_range(0..self.open.len()));
            assert_eq!(self.router.delete(ACCOUNTS, key).await, 1, "account {key}");
            self.count("close".into());
            return;
        }
        let sign = if self.rng.random() { 1 } else { -1 };
        let Some(key) = self.own.next().map(|key| sign * key) else { return };
        self.router.insert(ACCOUNTS, doc! { "_id": key, "balance": 0_i64 }).await;
        self.open.push(key);
        self.count("open".into());
    }

    async fn transfer(&mut self, kind: &str, pairs: &[(i64, i64)]) {
        let end = match self.rng.random_range(0..16) {
            0..2 => End::Abort,
            2..5 => End::CommitByHand,
            5 => End::AbortPrepared,
            _ => End::Commit,
        };
        let mut transaction = self.router.begin(matches!(end, End::Commit | End::Abort));
        let amount = self.rng.random_range(1..20);
        let result = self.statements_and_end(&mut transaction, pairs, amount, end).await;
        if let Err(refusal) = result {
            self.router.abort(&transaction).await;
            self.count(format!("{kind} refused: {}", refusal.name));
        } else {
            self.count(format!("{kind} {end:?}"));
        }
    }

    async fn statements_and_end(
        &mut self,
        transaction: &mut Transaction,
        pairs: &[(i64, i64)],
        amount: i64,
        end: End,
    ) -> Result<(), Refusal> {
        transfer(&mut self.router, transaction, ACCOUNTS, pairs, amount).await?;
        match end {
            End::Commit => self.router.commit(transaction).await?,
            End::Abort => self.router.abort(transaction).await,
            End::AbortPrepared => {
                self.router.prepare(transaction).await?;
                self.router.abort(transaction).await;
            }
            End::CommitByHand => {
                let at = self.router.prepare(transaction).await?;
                let mut shards = transaction.participants.clone();
                if self.rng.random() {
                    shards.reverse();
                }
                for shard in shards {
                    self.router.commit_on(&shard, transaction, at).await;
                }
            }
        }
        Ok(())
    }
}

async fn transfer(
    router: &mut Router,
    transaction: &mut Transaction,
    ns: &str,
    pairs: &[(i64, i64)],
    amount: i64,
) -> Result<(), Refusal> {
    for (from, to) in pairs {
        router.update_in(transaction, ns, *from, doc! { "$inc": { "balance": -amount } }).await?;
        router.update_in(transaction, ns, *to, doc! { "$inc": { "balance": amount } }).await?;
    }
    Ok(())
}

/// A transaction over both shards that is prepared, with nine operations on each of them.
struct Held {
    router: Router,
    transaction: Transaction,
    at: Timestamp,
}

impl Held {
    /// `number` gives it accounts of its own in the vault.
    async fn prepare(cluster: &ShardedCluster, number: i64) -> Self {
        let mut router = cluster.router().await;
        let mut transaction = router.begin(false);
        let pairs: Vec<(i64, i64)> = (1..10).map(|n| (-(number * 10 + n), number * 10 + n)).collect();
        let done = transfer(&mut router, &mut transaction, VAULT, &pairs, 10 + number).await;
        done.expect("nobody else uses these accounts");
        let at = router.prepare(&transaction).await.expect("prepare");
        Self { router, transaction, at }
    }

    async fn commit_on(&mut self, shard: usize) {
        let shard = self.transaction.participants[shard].clone();
        self.router.commit_on(&shard, &self.transaction, self.at).await;
    }

    async fn commit(&mut self) {
        self.commit_on(0).await;
        self.commit_on(1).await;
    }
}

/// Transactions that are held prepared over the boundaries of a backup.
pub struct Vault<'a> {
    cluster: &'a ShardedCluster,
    committed_during: Option<Held>,
    aborted_during: Option<Held>,
    /// On the first shard during the backup, on the second one after it.
    committed_by_halves: Option<Held>,
    committed_after: Vec<Held>,
}

impl<'a> Vault<'a> {
    /// Before the backup: all are prepared.
    pub async fn close(cluster: &'a ShardedCluster) -> Self {
        Self {
            cluster,
            committed_during: Some(Held::prepare(cluster, 0).await),
            aborted_during: Some(Held::prepare(cluster, 1).await),
            committed_by_halves: Some(Held::prepare(cluster, 2).await),
            committed_after: vec![Held::prepare(cluster, 3).await],
        }
    }

    /// While the backup runs.
    pub async fn shake(&mut self) {
        self.committed_during.take().expect("once").commit().await;
        let mut held = self.aborted_during.take().expect("once");
        held.router.abort(&held.transaction).await;
        self.committed_by_halves.as_mut().expect("before the end").commit_on(0).await;
        self.committed_after.push(Held::prepare(self.cluster, 4).await);
    }

    /// After the backup: nothing is left prepared.
    pub async fn open(mut self) {
        self.committed_by_halves.take().expect("once").commit_on(1).await;
        for mut held in self.committed_after {
            held.commit().await;
        }
    }
}

/// Moves chunks of the accounts between the two shards until told to stop. What is refused is refused: moves exclude each
/// other, and a backup may stop the balancer.
async fn move_about(cluster: &ShardedCluster, seed: u64, stop: &AtomicBool, tried: watch::Sender<u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut moved, mut refused) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let key = CHUNKS[rng.random_range(0..CHUNKS.len())];
        let owner = cluster.table(ACCOUNTS).await.chunk_of(key).shard.clone();
        let to = cluster.shards[..2].iter().find(|shard| shard.id != owner).expect("the other shard");
        match cluster.move_chunk(ACCOUNTS, key, &to.id).await {
            Ok(()) => moved += 1,
            Err(_) => refused += 1,
        }
        tried.send_modify(|tried| *tried += 1);
    }
    eprintln!("{moved} chunks moved, {refused} moves refused");
}

/// Runs the bank, does something while it is in full swing, and stops it.
pub async fn under_load<T>(
    cluster: &ShardedCluster,
    seed: u64,
    with_moves: bool,
    something: impl AsyncFnOnce(&mut Vault<'_>) -> T,
) -> T {
    let stop = Arc::new(AtomicBool::new(false));
    let (steps, counted) = watch::channel(0);
    let mut pace = Pace(counted);
    let mut tellers = Vec::new();
    for n in 0..3_u8 {
        let teller = Teller::new(cluster, seed * 100 + u64::from(n), n.into()).await;
        tellers.push(tokio::spawn(teller.run_until(stop.clone(), steps.clone())));
    }
    let no_more_moves = AtomicBool::new(!with_moves);
    let (tried, counted) = watch::channel(0);
    let mut moves = Pace(counted);
    let moving = move_about(cluster, seed, &no_more_moves, tried);
    let mut go_on = async || {
        pace.wait(100).await;
        if with_moves {
            moves.wait(1).await;
        }
    };
    let events = async {
        go_on().await;
        let mut vault = Vault::close(cluster).await;
        let result = something(&mut vault).await;
        vault.open().await;
        go_on().await;
        no_more_moves.store(true, Ordering::Relaxed);
        result
    };
    let (result, ()) = tokio::join!(events, moving);
    stop.store(true, Ordering::Relaxed);
    for teller in tellers {
        eprintln!("{:?}", teller.await.expect("a teller").done);
    }
    result
}

/// What the shards own, read from the servers that the oplogs were replayed on.
pub async fn owned_total(ns: &str, table: &Table, replayed: &[(&str, Client)]) -> i64 {
    let (db, coll) = ns.split_once('.').expect("database and collection");
    let mut total = 0;
    for (shard, client) in replayed {
        let mut cursor = client.database(db).collection::<Document>(coll).find(doc! {}).await.expect("read");
        while cursor.advance().await.expect("read") {
            let document = cursor.deserialize_current().expect("a document");
            if table.chunk_of(document.get_i64("_id").expect("a key")).shard == *shard {
                total += sum([&document]);
            }
        }
    }
    total
}
