//! A temporary mongod on data files.
//!
//! It listens only on a unix socket in a private folder, so no client of the cluster can reach it, and its port can't
//! collide with anybody's. It runs as the owner of the files. It has no access control, deletes no expired documents and
//! writes no statistics. It is killed when its handle is dropped, and when this
//! process is killed.

use super::program::Program;
use anyhow::{Context, Result, bail};
use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, ServerAddress, WriteConcern};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

/// Time between two looks whether it listens.
const LOOK: Duration = Duration::from_millis(20);
/// Time between two reports that it still starts, or still stops.
const REPORT: Duration = Duration::from_secs(60);
/// The longest path of a socket, with its final zero byte, is 108 bytes.
const LONGEST: usize = 100;
/// Lines of the log that an error shows.
const LINES: usize = 4;

/// How a mongod is to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    program: &'a Program,
    dbpath: &'a Path,
    arguments: Vec<String>,
    port: Option<u16>,
}

impl<'a> Launch<'a> {
    #[must_use]
    pub fn new(program: &'a Program, dbpath: &'a Path) -> Self {
        let launch = Self { program, dbpath, arguments: Vec::new(), port: None };
        launch
            .argument("--wiredTigerEngineConfigString=log=(prealloc=false)")
            .parameter("ttlMonitorEnabled", false)
            .parameter("diagnosticDataCollectionEnabled", false)
            .parameter("disableLogicalSessionCacheRefresh", true)
    }

    /// Reads the files as the node of a backup had them: `options` is its `mongod_opts` (docs/format.md A.8.4).
    #[must_use]
    pub fn stored_with(mut self, options: &Document) -> Self {
        self.arguments.extend(storage_arguments(options));
        self
    }

    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn parameter(self, name: &str, value: impl std::fmt::Display) -> Self {
        self.argument(format!("--setParameter={name}={value}"))
    }

    /// Limits the cache, for a mongod beside another one.
    #[must_use]
    pub fn cache_gb(self, gb: f64) -> Self {
        self.argument(format!("--wiredTigerCacheSizeGB={gb}"))
    }

    /// Listens on this port of 127.0.0.1, too.
    #[must_use]
    pub fn also_on(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Starts it, and returns when it answers. That takes as long as its recovery takes.
    ///
    /// # Errors
    /// It ends before it answers; the error has the end of its log.
    pub async fn start(self) -> Result<Server> {
        let owner = Owner::of(self.dbpath)?;
        let folder = Folder::new(&owner)?;
        let mut child = self
            .command(&folder, &owner)?
            .spawn()
            .with_context(|| format!("start {}", self.program.path().display()))?;
        let lifeline = child.stdin.take();
        let started = listening(&mut child, &folder).await;
        if let Err(error) = started {
            let path = self.dbpath.display();
            return Err(error.context(format!("start a temporary mongod on {path}{}", folder.last_words())));
        }
        let client = client(&folder.socket())?;
        Ok(Server { child, _lifeline: lifeline, client, dbpath: self.dbpath.to_owned(), folder })
    }

    fn command(&self, folder: &Folder, owner: &Owner) -> Result<Command> {
        let socket = folder.socket().display().to_string();
        let addresses = if self.port.is_some() { format!("{socket},127.0.0.1") } else { socket };
        let output = File::create(folder.output()).context("make a file for the output of mongod")?;
        let errors = output.try_clone().context("make a file for the output of mongod")?;
        let mut command = self.program.command();
        command
            .arg("--dbpath")
            .arg(self.dbpath)
            .args(["--bind_ip", &addresses, "--nounixsocket"])
            .args(["--port", &self.port.unwrap_or(27017).to_string()])
            .arg("--logpath")
            .arg(folder.log())
            .args(&self.arguments)
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true);
        if let Some((uid, gid)) = owner.to_become() {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }
}

/// A running temporary mongod.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The process is killed when this is closed, also by our own end.
    _lifeline: Option<ChildStdin>,
    client: Client,
    dbpath: PathBuf,
    folder: Folder,
}

impl Server {
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// A connection string for other programs of the same user.
    #[must_use]
    pub fn uri(&self) -> String {
        let socket = self.folder.socket().display().to_string();
        format!("mongodb://{}/?directConnection=true", socket.replace('/', "%2F"))
    }

    /// Its name as the only member of a replica set.
    #[must_use]
    pub fn address(&self) -> String {
        self.folder.socket().display().to_string()
    }

    /// Returns when the process has ended by itself.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Stops it as its own `shutdown` does, with a checkpoint.
    ///
    /// # Errors
    /// It ended with a failure; the error has the end of its log.
    pub async fn stop(mut self) -> Result<()> {
        // The answer can be lost with the connection: what counts is how the process ends.
        let asked = self.client.database("admin").run_command(doc! { "shutdown": 1, "force": true }).await;
        if let Err(error) = asked
            && matches!(*error.kind, mongodb::error::ErrorKind::Command(_))
        {
            return Err(self.explain(anyhow::Error::new(error).context("run shutdown")));
        }
        let ended = loop {
            tokio::select! {
                ended = self.child.wait() => break ended.context("wait for the end of mongod")?,
                () = tokio::time::sleep(REPORT) => tracing::info!("the temporary mongod on {} still stops", self.dbpath.display()),
            }
        };
        if !ended.success() {
            return Err(self.explain(anyhow::anyhow!("the temporary mongod ended with {ended}")));
        }
        Ok(())
    }

    /// Stops it after work that was done on it.
    ///
    /// # Errors
    /// It does not stop, or the work failed; the error has the end of its log.
    pub async fn finish<T>(self, done: Result<T>) -> Result<T> {
        match done {
            Ok(done) => self.stop().await.map(|()| done),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Adds the end of the log to an error.
    #[must_use]
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!("work on {} with a temporary mongod{}", self.dbpath.display(), self.folder.last_words()))
    }
}

async fn listening(child: &mut Child, folder: &Folder) -> Result<()> {
    let mut report = Instant::now() + REPORT;
    loop {
        if UnixStream::connect(folder.socket()).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait().context("look whether mongod runs")? {
            bail!("it ended with {status}");
        }
        if Instant::now() >= report {
            report += REPORT;
            tracing::info!("the temporary mongod still starts{}", folder.last_words());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn client(socket: &Path) -> Result<Client> {
    let options = ClientOptions::builder()
        .hosts(vec![ServerAddress::Unix { path: socket.to_owned() }])
        .direct_connection(true)
        .app_name("pbm-agent".to_owned())
        .server_selection_timeout(Duration::from_secs(10))
        .read_concern(ReadConcern::local())
        .write_concern(WriteConcern::builder().w(Acknowledgment::Nodes(1)).build())
        .retry_writes(false)
        .retry_reads(false)
        .build();
    Client::with_options(options).context("set up the client of a temporary mongod")
}

/// What the file format depends on.
fn storage_arguments(options: &Document) -> Vec<String> {
    let at = |path: &[&str]| -> Option<bson::Bson> {
        let (last, folders) = path.split_last()?;
        let mut level = options;
        for folder in folders {
            level = level.get_document(folder).ok()?;
        }
        level.get(last).cloned()
    };
    let is = |path: &[&str]| at(path).and_then(|it| it.as_bool()).unwrap_or(false);
    let text = |path: &[&str]| at(path).and_then(|it| it.as_str().map(str::to_owned)).filter(|it| !it.is_empty());
    let engine = ["storage", "wiredTiger", "engineConfig"];
    let mut arguments = Vec::new();
    if is(&["storage", "directoryPerDB"]) {
        arguments.push("--directoryperdb".to_owned());
    }
    if is(&[engine[0], engine[1], engine[2], "directoryForIndexes"]) {
        arguments.push("--wiredTigerDirectoryForIndexes".to_owned());
    }
    if let Some(codec) = text(&[engine[0], engine[1], engine[2], "journalCompressor"]) {
        arguments.push(format!("--wiredTigerJournalCompressor={codec}"));
    }
    arguments
}

/// Who owns the data files.
#[derive(Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn of(dbpath: &Path) -> Result<Self> {
        let about = std::fs::metadata(dbpath).with_context(|| format!("look at the folder {}", dbpath.display()))?;
        Ok(Self { uid: about.uid(), gid: about.gid() })
    }

    /// Files that root's mongod writes could not be read by the mongod of the cluster.
    fn to_become(&self) -> Option<(u32, u32)> {
        let we_are_root = rustix::process::geteuid().is_root();
        (we_are_root && self.uid != 0).then_some((self.uid, self.gid))
    }
}

/// A folder that only we and the owner of the data files can enter; removed when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(owner: &Owner) -> Result<Self> {
        let name = format!("pbm-mongod-{:016x}", rand::random::<u64>());
        let mut path = std::env::temp_dir().join(&name);
        if path.as_os_str().len() + "/mongod.sock".len() > LONGEST {
            path = Path::new("/tmp").join(&name);
        }
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("make the folder {} for a temporary mongod", path.display()))?;
        let folder = Self(path);
        if let Some((uid, gid)) = owner.to_become() {
            chown(&folder.0, Some(uid), Some(gid)).context("give the folder to the owner of the data files")?;
        }
        Ok(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("mongod.sock")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    /// The end of the log as part of a sentence; empty if there is none.
    fn last_words(&self) -> String {
        let read = |path| std::fs::read(path).map(|it| String::from_utf8_lossy(&it).into_owned()).unwrap_or_default();
        let words = words_of(&read(self.log()), &read(self.output()));
        if words.is_empty() { String::new() } else { format!(" (its log: {words})") }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} remains: {error}; remove it", self.0.display());
        }
    }
}

/// The errors of a log, else its end. A mongod that does not even begin its log prints to its output.
fn words_of(log: &str, output: &str) -> String {
    let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let bad: Vec<_> = lines.iter().filter(|it| it["s"] == "E" || it["s"] == "F").collect();
    let chosen: Vec<_> = if bad.is_empty() { lines.iter().collect() } else { bad };
    let mut told: Vec<String> = chosen.iter().rev().take(LINES).rev().map(|line| sentence(line)).collect();
    if lines.is_empty() {
        let end: Vec<&str> = output.lines().collect();
        told = end[end.len().saturating_sub(LINES)..].iter().map(|&line| line.to_owned()).collect();
    }
    told.join("; ")
}

fn sentence(line: &serde_json::Value) -> String {
    let message = line["msg"].as_str().unwrap_or_default();
    match &line["attr"] {
        serde_json::Value::Null => message.to_owned(),
        more => format!("{message} {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_storage_options_of_a_backup_become_arguments() {
        assert_eq!(storage_arguments(&doc! {}), Vec::<String>::new());
        let options = doc! { "storage": {
            "directoryPerDB": true, "dbPath": "/data",
            "wiredTiger": { "engineConfig": { "journalCompressor": "zstd", "directoryForIndexes": true } },
        } };
        let wanted = ["--directoryperdb", "--wiredTigerDirectoryForIndexes", "--wiredTigerJournalCompressor=zstd"];
        assert_eq!(storage_arguments(&options), wanted);
    }

    #[test]
    fn an_error_shows_the_errors_of_the_log_else_its_end() {
        let line = |severity: &str, text: &str| format!(r#"{{"s":"{severity}","msg":"{text}","attr":{{"n":1}}}}"#);
        let log = [line("I", "a"), line("E", "b"), line("I", "c")].join("\n");
        assert_eq!(words_of(&log, "output"), r#"b {"n":1}"#);
        let calm = (0..9).map(|n| format!(r#"{{"s":"I","msg":"{n}"}}"#)).collect::<Vec<_>>().join("\n");
        assert_eq!(words_of(&calm, ""), "5; 6; 7; 8");
        assert_eq!(words_of("", "no such\noption"), "no such; option");
    }

    #[test]
    fn the_folder_of_the_socket_is_private_and_ends_with_its_handle() {
        let folder = Folder::new(&Owner { uid: 0, gid: 0 }).expect("a folder");
        let path = folder.0.clone();
        assert_eq!(std::fs::metadata(&path).expect("the folder").permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }
}
