//! Random writes and DDL. Errors are part of it: workers step on each other's toes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use mongodb::Client;
use mongodb::bson::{Bson, DateTime, Document, doc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DBS: &[&str] = &["shop", "crm"];
const PLAIN: &[&str] = &["a", "b", "c", "d", "e"];
/// These are a collection, a view or a time series by turns.
const MIXED: &[&str] = &["x", "y"];

/// Lets something else happen only as fast as the workload goes on.
#[derive(Clone)]
pub struct Pace(pub watch::Receiver<u64>);

impl Pace {
    /// Waits until the workers have done `count` steps more.
    pub async fn wait(&mut self, count: u64) {
        let until = *self.0.borrow() + count;
        self.0.wait_for(|steps| *steps >= until).await.expect("the workload goes on until it is stopped");
    }
}

pub struct Workload {
    client: Client,
    rng: StdRng,
    major: i32,
    /// Statistics of what went well, to see that the test tests something.
    pub done: std::collections::BTreeMap<&'static str, usize>,
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from[rng.random_range(0..from.len())]
}

impl Workload {
    pub fn new(client: Client, seed: u64, major: i32) -> Self {
        Self { client, rng: StdRng::seed_from_u64(seed), major, done: Default::default() }
    }

    /// Works until told to stop, and counts its steps.
    pub async fn run_until(mut self, stop: Arc<AtomicBool>, steps: watch::Sender<u64>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.step().await;
            steps.send_modify(|steps| *steps += 1);
        }
        self
    }

    pub async fn steps(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.step().await;
        }
        self
    }

    fn id(&mut self) -> Bson {
        match self.rng.random_range(0..10) {
            0 => Bson::String(pick(&mut self.rng, &["k", "K", "m", "M"]).to_owned()),
            _ => Bson::Int32(self.rng.random_range(0..120)),
        }
    }

    fn fields(&mut self) -> Document {
        let n: i32 = self.rng.random_range(0..1000);
        let size = if self.rng.random_ratio(1, 20) { 20_000 } else { 40 };
        let text = "t".repeat(self.rng.random_range(1..size));
        doc! {
            "n": n, "s": {"p": n, "q": {"r": [n, n + 1]}}, "arr": (0..n % 5).collect::<Vec<i32>>(), "text": text,
            "u": format!("{}-{n}", self.rng.random_range(0..1_000_000_000)),
        }
    }

    fn full(&mut self) -> Document {
        let mut doc = doc! {"_id": self.id()};
        let fields = self.fields();
        doc.extend(fields);
        doc
    }

    fn change(&mut self) -> Bson {
        let n: i32 = self.rng.random_range(0..1000);
        let long = "z".repeat(self.rng.random_range(0..300));
        match self.rng.random_range(0..9) {
            0 => doc! {"$set": {"s.q.r": n, format!("new{}", n % 7): long}}.into(),
            1 => doc! {"$unset": {"s.q": 1, "arr": 1}}.into(),
            2 => doc! {"$push": {"arr": {"$each": [n, n], "$slice": -6}}}.into(),
            3 => doc! {"$inc": {"n": 1, "s.p": 2}}.into(),
            4 => doc! {"$set": {"arr.1": n, "s.t.u.v": n}}.into(),
            5 => vec![Bson::from(doc! {"$set": {"arr": [1, {"k": "$n"}], "s": {"w": "$n"}}})].into(),
            6 => doc! {"$rename": {"n": "m"}}.into(),
            7 => doc! {"$mul": {"n": 3}, "$currentDate": {"at": true}}.into(),
            _ => self.fields().into(),
        }
    }

    async fn step(&mut self) {
        let db = pick(&mut self.rng, DBS);
        let all: Vec<&str> = PLAIN.iter().chain(MIXED).copied().collect();
        let coll = pick(&mut self.rng, &all);
        let what = self.rng.random_range(0..1000);
        let (name, command) = match what {
            0..250 => {
                let docs: Vec<Document> = (0..self.rng.random_range(1..12)).map(|_| self.full()).collect();
                ("insert", doc! {"insert": coll, "documents": docs, "ordered": false})
            }
            250..520 => {
                let updates: Vec<Document> = (0..self.rng.random_range(1..4))
                    .map(|_| {
                        let upsert = self.rng.random_ratio(1, 5);
                        let multi = false;
                        doc! {"q": {"_id": self.id()}, "u": self.change(), "upsert": upsert, "multi": multi}
                    })
                    .collect();
                ("update", doc! {"update": coll, "updates": updates, "ordered": false})
            }
            520..620 => {
                let id = self.id();
                let q = if self.rng.random_ratio(1, 40) {
                    doc! {"n": {"$gt": 500}}
                } else {
                    doc! {"_id": id}
                };
                ("delete", doc! {"delete": coll, "deletes": [{"q": q, "limit": 0}]})
            }
            620..700 => return self.transaction(db, &all).await,
            700..760 => return self.measurements(db).await,
            760..770 => ("drop", doc! {"drop": coll}),
            770..840 => {
                if self.rng.random_ratio(2, 3) {
                    self.run("drop", db, doc! {"drop": coll}).await;
                }
                ("create", self.creation(coll))
            }
            840..880 => ("createIndexes", self.index(coll)),
            880..895 => {
                let names = ["*", "n_1", "u_1", "part", "ttl", "s", "m_1_t_1"];
                ("dropIndexes", doc! {"dropIndexes": coll, "index": pick(&mut self.rng, &names)})
            }
            895..935 => ("collMod", self.modification(coll)),
            935..965 => {
                let to_db = if self.rng.random_ratio(1, 5) { pick(&mut self.rng, DBS) } else { db };
                let to = format!("{to_db}.{}", pick(&mut self.rng, &all));
                let command = doc! {"renameCollection": format!("{db}.{coll}"), "to": to, "dropTarget": self.rng.random_ratio(2, 3)};
                return self.run("rename", "admin", command).await;
            }
            965..972 => ("convertToCapped", doc! {"convertToCapped": coll, "size": 8192}),
            972..982 => {
                let out = pick(&mut self.rng, PLAIN);
                (
                    "out",
                    doc! {"aggregate": coll, "pipeline": [{"$match": {"n": {"$lt": 300}}}, {"$out": out}], "cursor": {}},
                )
            }
            982..989 => {
                let command = doc! {"collMod": coll, "viewOn": pick(&mut self.rng, PLAIN), "pipeline": [{"$limit": 3}]};
                ("view collMod", command)
            }
            989..990 => ("dropDatabase", doc! {"dropDatabase": 1}),
            990..993 => ("emptycapped", doc! {"emptycapped": coll}),
            _ => {
                let coll = pick(&mut self.rng, MIXED);
                self.run("drop", db, doc! {"drop": coll}).await;
                ("create view", doc! {"create": coll, "viewOn": pick(&mut self.rng, PLAIN), "pipeline": []})
            }
        };
        self.run(name, db, command).await;
    }

    async fn run(&mut self, name: &'static str, db: &str, mut command: Document) {
        command.insert("writeConcern", doc! {"w": 1, "j": false});
        if self.client.database(db).run_command(command).await.is_ok() {
            *self.done.entry(name).or_default() += 1;
        }
    }

    fn creation(&mut self, coll: &str) -> Document {
        let newer = self.major >= 6;
        match self.rng.random_range(0..10) {
            0 => doc! {"create": coll, "capped": true, "size": 4096, "max": 12},
            1 => doc! {"create": coll, "capped": true, "size": 16384},
            2 => doc! {"create": coll, "collation": {"locale": "en", "strength": 2}},
            3 => doc! {"create": coll, "validator": {"n": {"$exists": true}}, "validationLevel": "moderate"},
            4 if newer => {
                doc! {"create": coll, "clusteredIndex": {"key": {"_id": 1}, "unique": true}, "expireAfterSeconds": 1_000_000_000_i64}
            }
            5 if newer => doc! {"create": coll, "changeStreamPreAndPostImages": {"enabled": true}},
            5 => doc! {"create": coll, "recordPreImages": true},
            6..=8 if MIXED.contains(&coll) => self.series(coll),
            _ => doc! {"create": coll},
        }
    }

    fn series(&mut self, coll: &str) -> Document {
        let mut create = doc! {"create": coll, "timeseries": {"timeField": "t", "metaField": "m"}};
        if self.rng.random_ratio(1, 2) {
            create.insert("expireAfterSeconds", 1_000_000_000_i64);
        }
        create
    }

    fn index(&mut self, coll: &str) -> Document {
        let spec = match self.rng.random_range(0..9) {
            0 => doc! {"key": {"n": 1}, "name": "n_1", "hidden": self.rng.random_ratio(1, 2)},
            1 => doc! {"key": {"u": 1}, "name": "u_1", "unique": true, "sparse": true},
            2 => doc! {"key": {"n": -1}, "name": "part", "partialFilterExpression": {"n": {"$gt": 10}}},
            3 => doc! {"key": {"at": 1}, "name": "ttl", "expireAfterSeconds": 1_000_000_000},
            4 => doc! {"key": {"s": 1, "arr": 1}, "name": "s"},
            5 => doc! {"key": {"text": "text"}, "name": "text"},
            6 => doc! {"key": {"$**": 1}, "name": "wild"},
            7 => doc! {"key": {"u": 1}, "name": "u_plain", "collation": {"locale": "de"}},
            _ => doc! {"key": {"m": 1, "t": 1}, "name": "m_1_t_1"},
        };
        doc! {"createIndexes": coll, "indexes": [spec]}
    }

    fn modification(&mut self, coll: &str) -> Document {
        let n: i32 = self.rng.random_range(1..1000);
        match self.rng.random_range(0..10) {
            0 => doc! {"collMod": coll, "validator": {"n": {"$ne": n}}, "validationAction": "warn"},
            1 => doc! {"collMod": coll, "index": {"name": "ttl", "expireAfterSeconds": 1_000_000_000 + n}},
            2 => doc! {"collMod": coll, "index": {"keyPattern": {"n": 1}, "hidden": n % 2 == 0}},
            3 => doc! {"collMod": coll, "index": {"name": "n_1", "prepareUnique": n % 2 == 0}},
            // On a view these kill the server (5.0.4, 6.0.5).
            4 if PLAIN.contains(&coll) => doc! {"collMod": coll, "cappedSize": 8192 + n, "cappedMax": 20 + n % 5},
            5 if PLAIN.contains(&coll) => {
                doc! {"collMod": coll, "changeStreamPreAndPostImages": {"enabled": n % 2 == 0}}
            }
            6 if MIXED.contains(&coll) => {
                doc! {"collMod": format!("system.buckets.{coll}"), "expireAfterSeconds": 1_000_000_000_i64 + i64::from(n)}
            }
            6 if n % 3 == 0 => doc! {"collMod": coll, "expireAfterSeconds": "off"},
            6 => doc! {"collMod": coll, "expireAfterSeconds": 1_000_000_000_i64 + i64::from(n)},
            7 => doc! {"collMod": coll, "timeseries": {"granularity": if n % 2 == 0 { "minutes" } else { "hours" }}},
            8 => doc! {"collMod": coll, "validator": {}},
            _ => doc! {"collMod": coll, "index": {"name": "n_1", "unique": true}},
        }
    }

    async fn measurements(&mut self, db: &str) {
        let coll = pick(&mut self.rng, MIXED);
        let now = DateTime::now().timestamp_millis();
        let docs: Vec<Document> = (0..self.rng.random_range(1..8))
            .map(|n| doc! {"t": DateTime::from_millis(now + n * 1000), "m": self.rng.random_range(0..4), "v": n, "w": {"k": n}})
            .collect();
        self.run("measurements", db, doc! {"insert": coll, "documents": docs}).await;
    }

    async fn transaction(&mut self, db: &str, all: &[&str]) {
        let Ok(mut session) = self.client.start_session().await else { return };
        if session.start_transaction().await.is_err() {
            return;
        }
        let statements = self.rng.random_range(1..8);
        for n in 0..statements {
            let coll = pick(&mut self.rng, all);
            let command = match self.rng.random_range(0..6) {
                0..3 => {
                    let docs: Vec<Document> = (0..self.rng.random_range(1..9)).map(|_| self.full()).collect();
                    doc! {"insert": coll, "documents": docs}
                }
                3 => {
                    doc! {"update": coll, "updates": [{"q": {"_id": {"$lt": 10}}, "u": {"$inc": {"n": 1}}, "multi": true}]}
                }
                4 => doc! {"delete": coll, "deletes": [{"q": {"_id": self.id()}, "limit": 1}]},
                _ if n == 0 => doc! {"create": coll},
                _ => doc! {"update": coll, "updates": [{"q": {"_id": self.id()}, "u": self.change()}]},
            };
            if self.client.database(db).run_command(command).session(&mut session).await.is_err() {
                let _ = session.abort_transaction().await;
                return;
            }
        }
        if self.rng.random_ratio(1, 6) {
            let _ = session.abort_transaction().await;
        } else if session.commit_transaction().await.is_ok() {
            *self.done.entry("transaction").or_default() += 1;
        }
    }
}
