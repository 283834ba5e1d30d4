//! What the sandbox starts, and the folder that it lives in. All of it ends with its handle.

use anyhow::{Context, Result, anyhow, bail};
use mongodb::{Client, bson::doc};
use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Calls `look` until it gives something.
///
/// # Errors
/// Nothing came within `limit`.
pub async fn until<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let since = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if since.elapsed() > limit {
            bail!("nothing came within {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A temporary folder.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("pbmbox-sandbox-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make the folder {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} remains: {error}; remove it", self.0.display());
        }
    }
}

struct Process(Child);

impl Process {
    /// Calls `look` until it gives something or the process ends. An error has the end of its `log`.
    async fn wait_for<T>(&mut self, what: &str, log: &Path, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        let found = until(START_LIMIT, async || match self.0.try_wait() {
            Ok(Some(status)) => Some(Err(anyhow!("it ended with {status}"))),
            _ => look().await.map(Ok),
        });
        let found = found.await.and_then(|found| found);
        found.with_context(|| format!("{what}; the end of its log:\n{}", last_lines(log)))
    }
}

fn last_lines(log: &Path) -> String {
    const LINES: usize = 5;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a server is in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Alone,
    Config,
    Shard,
}

impl Role {
    const fn argument(self) -> Option<&'static str> {
        match self {
            Self::Alone => None,
            Self::Config => Some("--configsvr"),
            Self::Shard => Some("--shardsvr"),
        }
    }
}

/// The place of a server: its folder, which does not exist yet, and its replica set.
#[derive(Debug)]
pub struct Place {
    pub folder: PathBuf,
    pub rs: String,
    pub role: Role,
}

/// A replica set of one member.
pub struct Mongod {
    process: Process,
    rs: String,
    port: u16,
    log: PathBuf,
}

impl Mongod {
    /// Starts `program` and waits until it is primary.
    pub async fn start(program: &Path, place: &Place) -> Result<Self> {
        let port = free_port()?;
        let (data, log) = (place.folder.join("data"), place.folder.join("mongod.log"));
        fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
        let process = Command::new(program)
            .args(["--replSet", &place.rs, "--bind_ip", "127.0.0.1", "--port", &port.to_string()])
            .args(place.role.argument())
            .args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "100"])
            // A journal in small files, not 300 MB that are reserved in advance; no statistics of every second.
            .args(["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=10MB)"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            // Its socket would lie outside of the folder.
            .arg("--nounixsocket")
            .arg("--dbpath")
            .arg(&data)
            .arg("--logpath")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| {
                format!("start {}; install MongoDB, or give the path of a mongod with --mongod", program.display())
            })?;
        let mut server = Self { process: Process(process), rs: place.rs.clone(), port, log };
        // A client that connects too early tries again only half a second later.
        server.wait_for(async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await?;
        let admin = server.connect(&format!("mongodb://{}/?directConnection=true", server.address())).await?;
        let admin = admin.database("admin");
        let mut config = doc! { "_id": &place.rs, "members": [{ "_id": 0, "host": server.address() }] };
        if place.role == Role::Config {
            config.insert("configsvr", true);
        }
        server
            .wait_for(async || {
                let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
                if !hello.contains_key("setName") {
                    let _ = admin.run_command(doc! { "replSetInitiate": config.clone() }).await;
                }
                hello.get_bool("isWritablePrimary").unwrap_or(false).then_some(())
            })
            .await?;
        Ok(server)
    }

    async fn wait_for<T>(&mut self, look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        self.process.wait_for("start a mongod", &self.log, look).await
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn uri(&self) -> String {
        format!("mongodb://{}/?replicaSet={}", self.address(), self.rs)
    }

    async fn connect(&self, uri: &str) -> Result<Client> {
        Client::with_uri_str(uri).await.with_context(|| format!("connect to {uri}"))
    }

    pub async fn client(&self) -> Result<Client> {
        self.connect(&self.uri()).await
    }
}

/// The system chooses a port that nobody listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port on 127.0.0.1")?;
    Ok(listener.local_addr().context("read the number of a free port")?.port())
}

/// A running agent.
pub struct Agent {
    process: Process,
    log: PathBuf,
}

impl Agent {
    pub fn start(program: &Path, uri: &str, log: PathBuf) -> Result<Self> {
        let out = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let mut command = Command::new(program);
        command.env("PBM_MONGODB_URI", uri).stdin(Stdio::null()).stdout(Stdio::null()).stderr(out);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { process: Process(child), log })
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Calls `look` until it gives something or the agent ends.
    pub async fn wait_for<T>(&mut self, look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        self.process.wait_for("start the agent", &self.log, look).await
    }
}
