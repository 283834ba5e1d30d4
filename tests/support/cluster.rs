//! Real replica sets in temporary folders on free ports.
//!
//! The server is the one that `dev/testbed.sh` provides; a missing one is a failure that says so.

use super::doctored::{Doctor, Proxy};
use mongodb::bson::{Document, doc};
use mongodb::{Client, options::ClientOptions};
use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
pub const USER: &str = "pbm-user";
pub const PASSWORD: &str = "throwaway 1/2";
/// By which the members of a set with users know each other.
const KEY: &str = "throwawaythrowaway";

/// Which mongod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The default, 6.0.
    Current,
    /// The newest 6.0 that is to be had.
    #[allow(dead_code, reason = "the benchmark and the example need no such server")]
    Newer,
    /// 5.0.
    Older,
    /// 4.4.
    #[allow(dead_code, reason = "the benchmark and the example need no such server")]
    Oldest,
}

/// What a replica set is in a sharded cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the benchmark and the example know no shards")]
pub enum Role {
    ConfigServer,
    Shard,
}

/// How a replica set is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The set's name.
    pub name: String,
    pub role: Option<Role>,
    pub members: usize,
    /// Additional settings of the first members in the replica set's configuration: that one is hidden, or an arbiter.
    pub kinds: Vec<Document>,
    pub auth: bool,
    pub tls: bool,
    pub version: Version,
    pub cache_gb: f64,
    pub oplog_mb: u32,
    pub args: Vec<String>,
    /// A proxy in front of each member changes its answers.
    pub doctor: Option<Doctor>,
    /// The folder for the data of all members, in place of a temporary one.
    pub data_in: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "rs0".into(),
            role: None,
            members: 1,
            kinds: Vec::new(),
            auth: false,
            tls: false,
            version: Version::Current,
            cache_gb: 0.25,
            oplog_mb: 990,
            args: Vec::new(),
            doctor: None,
            data_in: None,
        }
    }
}

/// A folder that is gone with its handle.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pbmbox-{name}-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).expect("make a temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody listens on, given out once in this process.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a free port");
        let port = listener.local_addr().expect("a bound port").port();
        if GIVEN.lock().expect("no panic while held").insert(port) {
            return port;
        }
    }
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/testbed")
}

/// The mongod binary and the folder of libraries that it needs.
pub fn binary(version: Version) -> (PathBuf, Option<PathBuf>) {
    let advice = "run dev/testbed.sh to fetch it, or set PBMBOX_MONGOD to a mongod binary";
    match version {
        Version::Current => {
            if let Some(given) = std::env::var_os("PBMBOX_MONGOD") {
                return (given.into(), None);
            }
            let cached = cache().join("mongod-6.0.5");
            if cached.exists() {
                return (cached, None);
            }
            let on_path = std::env::var_os("PATH")
                .and_then(|paths| std::env::split_paths(&paths).map(|p| p.join("mongod")).find(|p| p.exists()));
            (on_path.unwrap_or_else(|| panic!("there is no mongod; {advice}")), None)
        }
        Version::Newer | Version::Older | Version::Oldest => {
            let name = match version {
                Version::Oldest => "mongod-4.4.2",
                Version::Older => "mongod-5.0.4",
                Version::Newer | Version::Current => "mongod-6.0.27",
            };
            let cached = cache().join(name);
            assert!(cached.exists(), "there is no {name}; {advice}");
            let libraries = cache().join("libssl1.1");
            (cached, libraries.exists().then_some(libraries))
        }
    }
}

#[derive(Debug)]
struct Member {
    /// At which everybody finds it.
    port: u16,
    /// At which it listens.
    own_port: u16,
    _proxy: Option<Proxy>,
    process: Option<Child>,
}

impl Member {
    fn new(doctor: Option<&Doctor>) -> Self {
        let own_port = free_port();
        let Some(doctor) = doctor else { return Self { port: own_port, own_port, _proxy: None, process: None } };
        let port = free_port();
        let proxy = Proxy::open(port, own_port, doctor.clone());
        Self { port, own_port, _proxy: Some(proxy), process: None }
    }
}

/// A running replica set; killed and wiped when dropped.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Member>,
    options: Options,
    folder: Folder,
}

impl ReplicaSet {
    /// Starts it and waits for its primary. With `auth` the user [`USER`] exists, with the rights that agents need.
    pub async fn start(options: Options) -> Self {
        let folder = Folder::new("rs");
        if options.auth {
            let key = folder.path().join("key");
            fs::write(&key, KEY).expect("write the key file");
            let mut permissions = fs::metadata(&key).expect("key file").permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
            fs::set_permissions(&key, permissions).expect("protect the key file");
        }
        if options.tls {
            certificates(folder.path());
        }
        let members = (0..options.members).map(|_| Member::new(options.doctor.as_ref())).collect();
        let mut set = Self { members, options, folder };
        for n in 0..set.members.len() {
            set.spawn(n);
        }
        set.initiate().await;
        set
    }

    fn spawn(&mut self, n: usize) {
        let (program, libraries) = binary(self.options.version);
        let data = self.data_of(n);
        fs::create_dir_all(&data).expect("make a data folder");
        let mut command = Command::new(program);
        command
            .args([
                "--replSet",
                &self.options.name,
                "--bind_ip",
                "127.0.0.1",
                "--port",
                &self.members[n].own_port.to_string(),
            ])
            .args([
                "--wiredTigerCacheSizeGB",
                &self.options.cache_gb.to_string(),
                "--logappend",
                "--oplogSize",
                &self.options.oplog_mb.to_string(),
            ])
            .args(["--setParameter", "enableTestCommands=1"])
            .arg("--nounixsocket")
            .args(["--setParameter", "maxNumberOfTransactionOperationsInSingleOplogEntry=7"])
            // A journal in small files, not 300 MB that are reserved in advance.
            .args(["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=10MB)"])
            // What costs processor time and no test looks at: statistics every second, and more rounds than needed for
            // a password that is no secret.
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(["--setParameter", "scramIterationCount=5000"])
            .args(["--setParameter", "scramSHA256IterationCount=5000"])
            .arg("--dbpath")
            .arg(&data)
            .arg("--logpath")
            .arg(self.folder.path().join(format!("log{n}")))
            .args(&self.options.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.options.version != Version::Oldest {
            command.args(["--setParameter", "minSnapshotHistoryWindowInSeconds=1800"]);
        }
        match self.options.role {
            Some(Role::ConfigServer) => drop(command.arg("--configsvr")),
            Some(Role::Shard) => drop(command.arg("--shardsvr")),
            None => {}
        }
        if self.options.auth {
            command.arg("--keyFile").arg(self.folder.path().join("key"));
        }
        if self.options.tls {
            let file = |name: &str| self.folder.path().join(name);
            command.args(["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"]);
            command.arg("--tlsCertificateKeyFile").arg(file("server.pem")).arg("--tlsCAFile").arg(file("ca.pem"));
        }
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        self.members[n].process = Some(command.spawn().expect("start mongod"));
    }

    async fn initiate(&self) {
        let members: Vec<Document> = self
            .members
            .iter()
            .enumerate()
            .map(|(n, m)| {
                let mut member = self.options.kinds.get(n).cloned().unwrap_or_default();
                member.insert("_id", i32::try_from(n).expect("few"));
                member.insert("host", format!("127.0.0.1:{}", m.port));
                member
            })
            .collect();
        let mut config = doc! {
            "_id": &self.options.name, "members": members,
            "settings": { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500 },
        };
        if self.options.role == Some(Role::ConfigServer) {
            config.insert("configsvr", true);
        }
        self.wait_until_all_listen().await;
        let first = self.connect(&self.plain_uri_of(0)).await;
        super::wait::until("mongod to take replSetInitiate", LIMIT, async || {
            let done = first.database("admin").run_command(doc! { "replSetInitiate": config.clone() }).await;
            (done.is_ok() || done.is_err_and(|e| e.to_string().contains("already initialized"))).then_some(())
        })
        .await;
        self.first_election().await;
        if self.options.auth {
            self.add_users().await;
        }
    }

    /// A client that connects too early tries again only half a second later.
    async fn wait_until_all_listen(&self) {
        for member in &self.members {
            super::wait::until("mongod to listen", LIMIT, async || {
                tokio::net::TcpStream::connect(("127.0.0.1", member.own_port)).await.ok()
            })
            .await;
        }
    }

    /// Asks the first member to become primary, which otherwise waits for an election's time-out first. Where it can't be
    /// primary, another one becomes it by itself.
    async fn first_election(&self) {
        // Users don't exist yet; the key of the members is the password of this one.
        let mut uri = self.plain_uri_of(0);
        if self.options.auth {
            uri = uri.replacen("//", &format!("//__system:{KEY}@"), 1) + "&authSource=local";
        }
        let first = self.connect(&uri).await.database("admin");
        let running = self.running().await;
        super::wait::until("a primary", LIMIT, async || {
            if self.members.len() > 1 {
                let _ = first.run_command(doc! { "replSetStepUp": 1 }).await;
            }
            primary_by_hello(&running).await
        })
        .await;
        for (n, client) in &running {
            super::wait::until(&format!("the first synchronisation of member {n}"), LIMIT, async || {
                let hello = hello(client).await?;
                let is = |state| hello.get_bool(state).unwrap_or(false);
                (is("isWritablePrimary") || is("secondary") || is("arbiterOnly")).then_some(())
            })
            .await;
        }
    }

    /// The members that run, with a client for each.
    async fn running(&self) -> Vec<(usize, Client)> {
        let mut running = Vec::new();
        for n in (0..self.members.len()).filter(|n| self.members[*n].process.is_some()) {
            running.push((n, self.connect(&self.plain_uri_of(n)).await));
        }
        running
    }

    /// Through the localhost exception.
    async fn add_users(&self) {
        let primary = self.primary().await;
        let admin = self.connect(&self.plain_uri_of(primary)).await.database("admin");
        admin
            .run_command(doc! { "createUser": "root", "pwd": PASSWORD, "roles": ["root"] })
            .await
            .expect("create the first user");
        let root = self.uri_with(&self.address_of(primary), "root", "directConnection=true");
        let admin = self.connect(&root).await.database("admin");
        admin
            .run_command(doc! {
                "createRole": "pbmAnyAction",
                "privileges": [{ "resource": { "anyResource": true }, "actions": ["anyAction"] }], "roles": [],
            })
            .await
            .expect("create the role");
        admin
            .run_command(doc! {
                "createUser": USER, "pwd": PASSWORD,
                "roles": ["readWrite", "backup", "clusterMonitor", "restore", "pbmAnyAction"],
                "writeConcern": { "w": "majority" },
            })
            .await
            .expect("create the user");
    }

    /// For a direct connection to member `n`, without a user.
    fn plain_uri_of(&self, n: usize) -> String {
        let tls = self.tls_options();
        format!(
            "mongodb://127.0.0.1:{}/?directConnection=true{}{tls}",
            self.members[n].port,
            if tls.is_empty() { "" } else { "&" }
        )
    }

    fn tls_options(&self) -> String {
        if !self.options.tls {
            return String::new();
        }
        format!("tls=true&tlsCAFile={}", self.folder.path().join("ca.pem").display())
    }

    fn uri_with(&self, hosts: &str, user: &str, more: &str) -> String {
        let user = if self.options.auth {
            format!("{user}:{}@", PASSWORD.replace(' ', "%20").replace('/', "%2F"))
        } else {
            String::new()
        };
        let mut options = vec![more.to_owned()];
        if self.options.auth {
            options.push("authSource=admin".into());
        }
        options.push(self.tls_options());
        options.retain(|o| !o.is_empty());
        format!("mongodb://{user}{hosts}/?{}", options.join("&"))
    }

    /// All members, as an operator gives it to the command line.
    pub fn uri(&self) -> String {
        self.uri_as(USER)
    }

    /// The same for another user, who has the same password.
    pub fn uri_as(&self, user: &str) -> String {
        let hosts: Vec<String> = self.members.iter().map(|m| format!("127.0.0.1:{}", m.port)).collect();
        self.uri_with(&hosts.join(","), user, &format!("replicaSet={}", self.options.name))
    }

    /// One member, as its agent gets it.
    pub fn uri_of(&self, n: usize) -> String {
        self.uri_with(&self.address_of(n), USER, &format!("replicaSet={}", self.options.name))
    }

    /// The dbPath of member `n`.
    #[allow(dead_code, reason = "the benchmark and the example look at no files")]
    pub fn data_of(&self, n: usize) -> PathBuf {
        self.options.data_in.as_deref().unwrap_or(self.folder.path()).join(format!("data{n}"))
    }

    pub fn address_of(&self, n: usize) -> String {
        format!("127.0.0.1:{}", self.members[n].port)
    }

    /// The set and its members, as `config.shards` has them.
    #[allow(dead_code, reason = "the benchmark and the example know no shards")]
    pub fn connection_string(&self) -> String {
        let hosts: Vec<String> = (0..self.members.len()).map(|n| self.address_of(n)).collect();
        format!("{}/{}", self.options.name, hosts.join(","))
    }

    /// How it was started.
    #[allow(dead_code, reason = "the benchmark and the example know no shards")]
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }

    async fn connect(&self, uri: &str) -> Client {
        let mut options = ClientOptions::parse(uri).await.expect("a connection string");
        options.server_selection_timeout = Some(Duration::from_secs(30));
        Client::with_options(options).expect("a client")
    }

    /// Leads to the primary.
    pub async fn client(&self) -> Client {
        self.connect(&self.uri()).await
    }

    /// Leads to member `n`, whatever its state.
    pub async fn client_of(&self, n: usize) -> Client {
        self.connect(&self.uri_with(&self.address_of(n), USER, "directConnection=true&readPreference=primaryPreferred"))
            .await
    }

    /// The primary's number; waits for an election.
    pub async fn primary(&self) -> usize {
        let running = self.running().await;
        super::wait::until("a primary", LIMIT, async || primary_by_hello(&running).await).await
    }

    #[allow(dead_code, reason = "for the benchmark")]
    pub fn pid_of(&self, n: usize) -> u32 {
        self.members[n].process.as_ref().expect("a running member").id()
    }

    /// As a power cut would.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        self.kill_successor(n);
    }

    /// A restore of files starts mongod again, which then is no child of ours.
    fn kill_successor(&self, n: usize) {
        let data = self.folder.path().join(format!("data{n}"));
        let pid = fs::read_to_string(data.join("mongod.lock")).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<u32>() else { return };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&*data.to_string_lossy()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }

    /// A killed member loses all its data.
    pub fn wipe(&mut self, n: usize) {
        fs::remove_dir_all(self.data_of(n)).expect("remove the data folder");
    }

    /// Starts a killed member again.
    pub fn restart(&mut self, n: usize) {
        self.spawn(n);
    }
}

impl Drop for ReplicaSet {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            self.kill(n);
        }
    }
}

async fn hello(client: &Client) -> Option<Document> {
    let admin = client.database("admin");
    let hello = admin.run_command(doc! { "hello": 1 });
    tokio::time::timeout(Duration::from_secs(2), hello).await.ok()?.ok()
}

async fn primary_by_hello(running: &[(usize, Client)]) -> Option<usize> {
    for (n, client) in running {
        if hello(client).await.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
            return Some(*n);
        }
    }
    None
}

/// A throw-away authority and a certificate for 127.0.0.1.
fn certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(rcgen::DnType::CommonName, "throw-away authority");
    let ca_key = KeyPair::generate().expect("a key");
    let ca_cert = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = Issuer::new(ca, ca_key);
    let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("parameters");
    server.distinguished_name.push(rcgen::DnType::CommonName, "throw-away server");
    let key = KeyPair::generate().expect("a key");
    let cert = server.signed_by(&key, &issuer).expect("a certificate");
    fs::write(folder.join("ca.pem"), ca_cert.pem()).expect("write the authority");
    fs::write(folder.join("server.pem"), format!("{}{}", cert.pem(), key.serialize_pem()))
        .expect("write the certificate");
}
