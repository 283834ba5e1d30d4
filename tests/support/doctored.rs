//! A server that answers as another one would: a proxy in front of a real mongod that changes answers, or answers in its
//! place. So the facts of servers that can't be had for these tests are played by one that can.
//!
//! ```text
//! client ── port of the proxy ── [Doctor: the rules] ── port of the real mongod
//! ```
//!
//! [`Options::doctor`](super::cluster::Options) puts one in front of every member of a replica set or of a sharded cluster; the
//! members know each other by the addresses of their proxies, so no answer has to be changed for that. [`Proxy::open`] puts
//! one in front of any server. Members talk to each other unchanged: only the commands of clients are looked at.
//!
//! Each connection has a thread of its own, so that a test that blocks its own runtime does not stop the proxy.

use mongodb::bson::{Bson, Document, doc};
use std::fmt;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The number of OP_MSG.
const MESSAGE: i32 = 2013;
/// Flags of an OP_MSG.
const CHECKSUM: u32 = 1;
const MORE_TO_COME: u32 = 2;

/// A command of a client.
#[derive(Debug)]
pub struct Asked {
    pub db: String,
    /// Its name, such as `listCollections`.
    pub name: String,
    /// All but the documents of inserts, updates and deletes, which the driver sends beside it.
    pub command: Document,
}

impl Asked {
    fn read(command: Document) -> Option<Self> {
        let name = command.keys().next()?.clone();
        Some(Self { db: command.get_str("$db").unwrap_or_default().to_owned(), name, command })
    }

    /// The collection of the command, for a command that names one.
    pub fn coll(&self) -> &str {
        let named = if self.name == "getMore" { self.command.get("collection") } else { self.command.get(&self.name) };
        named.and_then(Bson::as_str).unwrap_or_default()
    }
}

/// Asks the real server over the client's own connection.
pub type Ask<'a> = &'a mut dyn FnMut(Document) -> Document;

type Instead = dyn Fn(&Asked, Ask<'_>) -> Option<Document> + Send + Sync;
type Change = dyn Fn(&Asked, &mut Document) + Send + Sync;

#[derive(Clone)]
enum Rule {
    Instead(Arc<Instead>),
    /// For the answers to these commands.
    Change(&'static [&'static str], Arc<Change>),
}

/// The rules by which answers are changed, in their order.
#[derive(Clone, Default)]
pub struct Doctor(Vec<Rule>);

impl fmt::Debug for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Doctor({} rules)", self.0.len())
    }
}

impl Doctor {
    /// A server of this version, at this feature compatibility version, in all that it tells of itself.
    #[must_use]
    pub fn version(server: &'static str, fcv: &'static str) -> Self {
        Self::default()
            .change(&["buildInfo", "buildinfo"], move |_, answer| {
                let numbers = server.split('.').map(|it| it.parse().expect("a number"));
                let mut numbers: Vec<i32> = numbers.collect();
                numbers.resize(4, 0);
                answer.insert("version", server);
                answer.insert("versionArray", numbers);
            })
            .change(&["getParameter"], move |_, answer| {
                if answer.contains_key("featureCompatibilityVersion") {
                    answer.insert("featureCompatibilityVersion", doc! { "version": fcv });
                }
            })
            .change(&["hello", "isMaster", "ismaster"], |_, answer| {
                // What 8.0 says; a driver takes part of what it may send from it.
                answer.insert("maxWireVersion", 25);
            })
            .change(&["serverStatus"], move |_, answer| drop(answer.insert("version", server)))
    }

    /// Changes the answers to the commands with these names.
    #[must_use]
    pub fn change(
        mut self,
        names: &'static [&'static str],
        change: impl Fn(&Asked, &mut Document) + Send + Sync + 'static,
    ) -> Self {
        self.0.push(Rule::Change(names, Arc::new(change)));
        self
    }

    /// Answers in place of the server, where the function gives an answer. It can ask the server itself.
    #[must_use]
    pub fn instead(mut self, instead: impl Fn(&Asked, Ask<'_>) -> Option<Document> + Send + Sync + 'static) -> Self {
        self.0.push(Rule::Instead(Arc::new(instead)));
        self
    }

    /// Refuses these commands with an error.
    #[must_use]
    pub fn refuse(
        self,
        code: i32,
        name: &'static str,
        message: &'static str,
        these: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.instead(move |asked, _| these(asked).then(|| refusal(code, name, message)))
    }

    /// Refuses what a shard of 8.0 refuses to a user without the right for direct access.
    #[must_use]
    pub fn without_direct_access(self) -> Self {
        const MESSAGE: &str = "You are connecting to a sharded cluster improperly by connecting directly to a shard. Please \
                               connect to the cluster via a router (mongos).";
        self.refuse(13, "Unauthorized", MESSAGE, |asked| {
            let on_data = ["find", "insert", "update", "delete", "aggregate", "create", "drop", "createIndexes"];
            let own = ["admin", "local", "config", "$external"];
            on_data.contains(&asked.name.as_str()) && !own.contains(&asked.db.as_str())
        })
    }

    /// Removes the bucket collections of time series from lists of collections, as a server does that has no such collections.
    #[must_use]
    pub fn without_buckets(self) -> Self {
        self.change(&["listCollections"], |_, answer| {
            let is_bucket = |it: &Bson| {
                let name = it.as_document().and_then(|it| it.get_str("name").ok());
                name.is_some_and(|name| name.starts_with("system.buckets."))
            };
            listed(answer, |all| all.retain(|it| !is_bucket(it)));
        })
    }

    /// Lists a collection under a type of its own.
    #[must_use]
    pub fn with_type(self, coll: &'static str, kind: &'static str) -> Self {
        self.change(&["listCollections"], move |_, answer| {
            listed(answer, |all| {
                for found in all.iter_mut().filter_map(Bson::as_document_mut) {
                    if found.get_str("name").is_ok_and(|name| name == coll) {
                        found.insert("type", kind);
                    }
                }
            });
        })
    }

    /// Refuses `applyOps` in the mode of an initial sync.
    #[must_use]
    pub fn without_initial_sync(self) -> Self {
        self.refuse(72, "InvalidOptions", "oplogApplicationMode InitialSync is not allowed", |asked| {
            asked.name == "applyOps"
                && asked.command.get_str("oplogApplicationMode").is_ok_and(|it| it == "InitialSync")
        })
    }

    /// Answers to an `applyOps` whose operation meets no such collection as newer servers do: the operation's result is false,
    /// the rest is applied, and the error tells no reason.
    #[must_use]
    pub fn with_silent_misses(self) -> Self {
        self.instead(|asked, ask| {
            let ops = asked.command.get_array("applyOps").ok().filter(|_| asked.name == "applyOps")?.clone();
            let (mut results, mut rest) = (Vec::new(), ops);
            loop {
                let mut command = asked.command.clone();
                command.insert("applyOps", rest.clone());
                let answer = ask(command);
                let done = answer.get_array("results").cloned().unwrap_or_default();
                let is_missing = answer.get_i32("code").is_ok_and(|code| code == 26) && !done.is_empty();
                if !is_missing && results.is_empty() {
                    return Some(answer);
                }
                rest.drain(..done.len().min(rest.len()));
                results.extend(done);
                if !is_missing || rest.is_empty() {
                    break;
                }
            }
            let whole = !results.contains(&Bson::Boolean(false));
            let applied = i32::try_from(results.len()).expect("few");
            let mut answer = if whole {
                doc! { "ok": 1.0 }
            } else {
                refusal(8, "UnknownError", "One or more errors")
            };
            answer.extend(doc! { "applied": applied, "results": results });
            Some(answer)
        })
    }
}

/// The answer to a command that is refused.
pub fn refusal(code: i32, name: &str, message: &str) -> Document {
    doc! { "ok": 0.0, "code": code, "codeName": name, "errmsg": message }
}

/// Changes the documents in an answer with a cursor.
pub fn listed(answer: &mut Document, change: impl FnOnce(&mut Vec<Bson>)) {
    let Ok(cursor) = answer.get_document_mut("cursor") else { return };
    for batch in ["firstBatch", "nextBatch"] {
        if let Ok(batch) = cursor.get_array_mut(batch) {
            return change(batch);
        }
    }
}

/// Listens until it is dropped; open connections end with their clients.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    closed: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on `port`, in front of the server at `server`, another port of this host.
    ///
    /// # Panics
    /// Something else listens there.
    pub fn open(port: u16, server: u16, doctor: Doctor) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen for clients of the proxy");
        let closed = Arc::new(AtomicBool::new(false));
        let (doctor, ended) = (Arc::new(doctor), closed.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), doctor) = (client, doctor.clone()) else { continue };
                std::thread::spawn(move || {
                    // The server may not listen yet, or any more: the client finds out by the closed connection.
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server)) {
                        let _ = serve(client, server, &doctor);
                    }
                });
            }
        });
        Self { port, closed }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Serves one connection until one side ends it.
fn serve(mut client: TcpStream, mut server: TcpStream, doctor: &Doctor) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    loop {
        let message = Message::read(&mut client)?;
        let Some(asked) = message.document().and_then(Asked::read) else {
            return pass(message, client, server);
        };
        if asked.command.contains_key("internalClient") {
            return pass(message, client, server);
        }
        if let Some(answer) = doctor.instead_of(&asked, &mut server)? {
            Message::of(&answer, message.id()).write(&mut client)?;
            continue;
        }
        message.write(&mut server)?;
        if message.flags() & MORE_TO_COME != 0 {
            continue;
        }
        loop {
            let reply = Message::read(&mut server)?;
            let more = reply.flags() & MORE_TO_COME != 0;
            doctor.changed(&asked, reply).write(&mut client)?;
            if !more {
                break;
            }
        }
    }
}

/// Passes on everything, beginning with `first`, as it is.
fn pass(first: Message, client: TcpStream, mut server: TcpStream) -> Result<()> {
    first.write(&mut server)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let (mut from, mut to) = (client, server);
    let done = std::io::copy(&mut from, &mut to).map(drop);
    let _ = to.shutdown(std::net::Shutdown::Both);
    done
}

impl Doctor {
    fn instead_of(&self, asked: &Asked, server: &mut TcpStream) -> Result<Option<Document>> {
        let mut lost = None;
        let mut ask = |command: Document| {
            let answer = Message::of(&command, 0).write(server).and_then(|()| Message::read(server));
            match answer.map(|answer| answer.document()) {
                Ok(Some(answer)) => answer,
                Ok(None) => Document::new(),
                Err(error) => {
                    lost = Some(error);
                    Document::new()
                }
            }
        };
        let mut answers = self.0.iter().filter_map(|rule| match rule {
            Rule::Instead(instead) => Some(instead),
            Rule::Change(..) => None,
        });
        let answer = answers.find_map(|instead| instead(asked, &mut ask));
        lost.map_or(Ok(answer), Err)
    }

    fn changed(&self, asked: &Asked, reply: Message) -> Message {
        let rules = self.0.iter().filter_map(|rule| match rule {
            Rule::Change(names, change) if names.contains(&asked.name.as_str()) => Some(change),
            _ => None,
        });
        let mut rules = rules.peekable();
        if rules.peek().is_none() {
            return reply;
        }
        let Some(mut answer) = reply.document() else { return reply };
        rules.for_each(|change| change(asked, &mut answer));
        reply.with(&answer)
    }
}

/// A message with its header.
struct Message(Vec<u8>);

impl Message {
    fn read(from: &mut TcpStream) -> Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let size = usize::try_from(i32::from_le_bytes(length)).map_err(|_| Error::from(ErrorKind::InvalidData))?;
        let mut bytes = vec![0; size.max(16)];
        bytes[..4].copy_from_slice(&length);
        from.read_exact(&mut bytes[4..])?;
        Ok(Self(bytes))
    }

    /// One document, in answer to the message with number `to`.
    fn of(document: &Document, to: i32) -> Self {
        let body = document.to_vec().expect("a document as BSON");
        let length = i32::try_from(21 + body.len()).expect("a sane size");
        let mut bytes = Vec::with_capacity(21 + body.len());
        for field in [length, 1, to, MESSAGE, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.push(0);
        bytes.extend(body);
        Self(bytes)
    }

    fn write(&self, to: &mut TcpStream) -> Result<()> {
        to.write_all(&self.0)
    }

    fn number(&self, at: usize) -> i32 {
        self.0.get(at..at + 4).map_or(0, |bytes| i32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn id(&self) -> i32 {
        self.number(4)
    }

    fn flags(&self) -> u32 {
        if self.number(12) == MESSAGE { self.number(16).cast_unsigned() } else { 0 }
    }

    /// The document of an OP_MSG; what is sent beside it is left out.
    fn document(&self) -> Option<Document> {
        if self.number(12) != MESSAGE {
            return None;
        }
        let mut rest = &self.0[20..self.0.len() - if self.flags() & CHECKSUM == 0 { 0 } else { 4 }];
        while let Some((kind, section)) = rest.split_first() {
            if *kind == 0 {
                return Document::from_reader(section).ok();
            }
            let size = i32::from_le_bytes(section.get(..4)?.try_into().expect("four bytes"));
            rest = section.get(usize::try_from(size).ok()?..)?;
        }
        None
    }

    /// The same reply with another document.
    fn with(&self, document: &Document) -> Self {
        let mut changed = Self::of(document, self.number(8));
        changed.0[4..8].copy_from_slice(&self.0[4..8]);
        let flags = self.flags() & !CHECKSUM;
        changed.0[16..20].copy_from_slice(&flags.to_le_bytes());
        changed
    }
}
