//! The agent as a service: settings, signals, the service manager, what others can read about it.

use crate::support::cluster::{Folder, Options, ReplicaSet, free_port};
use crate::support::programs::{Programs, Sandbox, signal};
use crate::support::wait::until;
use mongodb::bson::doc;
use std::fs::{self, File};
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// What plays the service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the socket");
        socket.set_nonblocking(true).expect("don't block");
        Self { socket, path, heard: Vec::new() }
    }

    /// Waits for a message of which `is` is true, after those that were returned before.
    async fn hears(&mut self, what: &str, is: impl Fn(&str) -> bool) -> String {
        until(what, SOON, async || {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes).ok()?;
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.heard.push(said.clone());
            is(&said).then_some(said)
        })
        .await
    }
}

/// A process that does not outlive the test.
struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    fn start(command: &mut Command, folder: &Path) -> Self {
        let stderr = folder.join("stderr");
        let file = File::options().create(true).append(true).open(&stderr).expect("a file");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("start");
        Self { child, stderr }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.stderr).expect("read")
    }

    async fn says(&self, what: &str) {
        until(what, SOON, async || self.said().contains(what).then_some(())).await;
    }

    async fn ends(&mut self) -> ExitStatus {
        until("the process to end", SOON, async || self.child.try_wait().expect("wait")).await
    }

    async fn terminate(&mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        self.ends().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr\n{}", self.said());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_settings_file() {
    let set = ReplicaSet::start(Options::default()).await;
    let folder = Folder::new("service");
    let (log, other) = (folder.path().join("log"), folder.path().join("other"));
    let settings = folder.path().join("agent.yaml");
    let write = |more: &str| {
        let text = format!("mongodb-uri: {}\nlog:\n  path: {}\n{more}", set.uri(), log.display());
        // As editors and configuration managers do it: another file takes the place.
        let fresh = folder.path().join("agent.yaml.new");
        fs::write(&fresh, text).expect("write");
        fs::rename(&fresh, &settings).expect("rename");
    };
    write("  level: I\nbackup:\n  dump-parallel-collections: 3\n");
    let mut manager = Manager::new(folder.path());
    let programs = Programs::new();
    let mut command = programs.command("pbm-agent");
    command.arg("-f").arg(&settings).env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let mut agent = Process::start(&mut command, folder.path());

    let ready = manager.hears("readiness", |said| said.contains("READY=1")).await;
    assert!(ready.contains("STATUS=serving ") && ready.contains("of replica set"), "{ready}");
    manager.hears("a first sign of life", |said| said == "WATCHDOG=1\n" || said == "WATCHDOG=1").await;
    manager.hears("another one", |said| said.starts_with("WATCHDOG=1")).await;
    let lines = fs::read_to_string(&log).expect("read");
    assert!(lines.contains(" I serving ") && !lines.contains(" D "), "{lines}");

    // The form changes without a signal; the connection string does not, and this is told.
    write("  json: true\n");
    until("JSON", SOON, async || {
        let text = fs::read_to_string(&log).expect("read");
        let last = text.lines().last().expect("a line");
        serde_json::from_str::<serde_json::Value>(last).ok().map(|_| ())
    })
    .await;
    fs::write(&settings, "log: {level: loud}\n").expect("write");
    until("the complaint", SOON, async || {
        let text = fs::read_to_string(&log).expect("read");
        text.contains("the settings stay as they were").then_some(())
    })
    .await;
    write("  json: false\n");
    until("text again", SOON, async || {
        let text = fs::read_to_string(&log).expect("read");
        text.lines().last().expect("a line").contains(" I the log goes on as").then_some(())
    })
    .await;

    // As logrotate does it.
    fs::rename(&log, &other).expect("rename");
    signal(agent.child.id(), "HUP");
    manager.hears("the reload", |said| said.contains("RELOADING=1") && said.contains("MONOTONIC_USEC=")).await;
    let end = manager.hears("its end", |said| said.contains("READY=1")).await;
    assert!(!end.contains("STATUS="), "what it serves stays: {end}");
    let lines = fs::read_to_string(&log).expect("a new file");
    assert!(lines.contains("the log was opened again"), "{lines}");

    assert_eq!(agent.terminate().await.code(), Some(0));
    manager.hears("the farewell", |said| said.contains("STOPPING=1")).await;
    assert_eq!(agent.said(), "", "all of it went to the file");
}

#[tokio::test]
async fn an_agent_without_its_mongod_counts_as_started_and_hides_its_password() {
    let folder = Folder::new("lonely");
    let programs = Programs::new();
    let stderr = folder.path().join("stderr");
    fs::write(&stderr, "").expect("write");
    let stream = fs::metadata(&stderr).expect("stat");
    let uri = format!("mongodb://pbm:throwaway-77@127.0.0.1:{}/", free_port());
    for arguments in [vec!["--mongodb-uri".to_owned(), uri.clone()], vec![format!("--mongodb-uri={uri}")]] {
        let own = Folder::new("notify");
        let mut manager = Manager::new(own.path());
        let mut command = programs.command("pbm-agent");
        command.args(arguments).args(["--log-level", "W"]).env("NOTIFY_SOCKET", &manager.path);
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev(), stream.st_ino()));
        let mut agent = Process::start(&mut command, folder.path());
        let ready = manager.hears("readiness", |said| said.contains("READY=1")).await;
        let why = ["STATUS=waiting for mongod to answer", "STATUS=can't work yet: "];
        assert!(why.iter().any(|why| ready.contains(why)), "{ready}");
        let about = |what: &str| fs::read(format!("/proc/{}/{what}", agent.child.id())).expect("read");
        let (arguments, environment) = (about("cmdline"), about("environ"));
        let (arguments, environment) = (String::from_utf8_lossy(&arguments), String::from_utf8_lossy(&environment));
        assert!(arguments.contains("pbm-agent\0--log-level\0W"), "{arguments:?}");
        assert!(!arguments.contains("throwaway-77"), "{arguments:?}");
        assert!(environment.contains("throwaway-77"), "{environment:?}");
        assert_eq!(String::from_utf8_lossy(&about("comm")), "pbm-agent\n");
        // The journal's form: a severity and no time.
        agent.says("<4>can't work yet: ").await;
        assert!(!agent.said().contains("throwaway-77"));
        assert_eq!(agent.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn what_no_waiting_heals_ends_the_agent_with_a_code_of_its_own() {
    let folder = Folder::new("codes");
    let programs = Programs::new();
    let file = folder.path().join("agent.yaml");
    fs::write(&file, "log: {path: /nonexistent/folder/log}\nmongodb-uri: mongodb://localhost\n").expect("write");
    let path = file.to_str().expect("text");
    for (arguments, code, part) in [
        (vec![], 78, "no connection string"),
        (vec!["-f", "/nonexistent/agent.yaml"], 78, "/nonexistent/agent.yaml"),
        (vec!["-f", path], 78, "open the log file /nonexistent/folder/log"),
        (vec!["--mongodb-uri", "mongodb://u:p@"], 78, "Error: "),
        (vec!["--log-level", "loud"], 2, "loud"),
        (vec!["--nonsense"], 2, "--nonsense"),
    ] {
        let folder = Folder::new("code");
        let mut agent = Process::start(programs.command("pbm-agent").args(&arguments), folder.path());
        assert_eq!(agent.ends().await.code(), Some(code), "{arguments:?}: {}", agent.said());
        assert!(agent.said().contains(part), "{arguments:?}: {}", agent.said());
    }
    // The journal gets it as an error.
    let journal = Folder::new("journal");
    let stderr = journal.path().join("stderr");
    fs::write(&stderr, "").expect("write");
    let stream = fs::metadata(&stderr).expect("stat");
    let mut command = programs.command("pbm-agent");
    command.env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev(), stream.st_ino()));
    let mut agent = Process::start(&mut command, journal.path());
    assert_eq!(agent.ends().await.code(), Some(78));
    assert!(agent.said().starts_with("<3>Error: no connection string"), "{}", agent.said());
    // systemd's credential is the last place where a connection string is looked for.
    fs::write(folder.path().join("pbm-mongodb-uri"), "mongodb://h1,\n").expect("write");
    let mut agent =
        Process::start(programs.command("pbm-agent").env("CREDENTIALS_DIRECTORY", folder.path()), folder.path());
    assert_eq!(agent.ends().await.code(), Some(78));
    assert!(!agent.said().contains("no connection string"), "{}", agent.said());
}

#[tokio::test]
async fn a_sidecar_starts_a_failing_agent_again_and_hands_signals_on() {
    let programs = Programs::new();
    let folder = Folder::new("sidecar");
    // Without being a sidecar: the agent's own end.
    let mut entry = Process::start(programs.command("pbm-agent-entrypoint").arg("pbm-agent"), folder.path());
    assert_eq!(entry.ends().await.code(), Some(78));

    let mut command = programs.command("pbm-agent-entrypoint");
    command.env("PBM_AGENT_SIDECAR", "true").env("PBM_AGENT_SIDECAR_SLEEP", "0").args(["--log-level", "I"]);
    let mut entry = Process::start(&mut command, folder.path());
    until("three starts", SOON, async || (entry.said().matches("it is started again").count() >= 3).then_some(()))
        .await;
    signal(entry.child.id(), "TERM");
    entry.ends().await;

    let folder = Folder::new("sidecar");
    let mut manager = Manager::new(folder.path());
    let mut command = programs.command("pbm-agent-entrypoint");
    command.env("PBM_AGENT_SIDECAR", "1").env("NOTIFY_SOCKET", &manager.path);
    command.env("PBM_MONGODB_URI", format!("mongodb://127.0.0.1:{}", free_port()));
    let mut entry = Process::start(&mut command, folder.path());
    manager.hears("the agent's start", |said| said.contains("READY=1")).await;
    assert_eq!(entry.terminate().await.code(), Some(0), "{}", entry.said());
    assert!(entry.said().contains("SIGTERM: ending"), "the agent was told: {}", entry.said());
}

#[test]
fn links_are_made_where_nothing_is_lost() {
    let folder = Folder::new("links");
    let (bin, links) = (folder.path().join("opt/pbmbox"), folder.path().join("bin"));
    fs::create_dir(folder.path().join("opt")).expect("make");
    fs::copy(env!("CARGO_BIN_EXE_pbmbox"), &bin).expect("copy the program");
    let run = |folder: &Path| Command::new(&bin).arg("install-links").arg(folder).output().expect("run");
    let names = ["pbm", "pbm-agent", "pbm-agent-entrypoint", "pbm-speed-test", "pbmctl"];
    for (folder, target) in [(links.as_path(), bin.as_path()), (bin.parent().expect("a folder"), Path::new("pbmbox"))] {
        for _ in ["once", "again"] {
            assert!(run(folder).status.success());
        }
        for name in names {
            assert_eq!(fs::read_link(folder.join(name)).expect(name), target);
        }
    }
    let version = Command::new(links.join("pbm-agent")).args(["version", "--short"]).output().expect("run");
    assert_eq!(version.stdout, b"2.15.0\n");
    fs::remove_file(links.join("pbmctl")).expect("remove");
    fs::remove_file(links.join("pbm")).expect("remove");
    fs::write(links.join("pbmctl"), "another program").expect("write");
    let refused = run(&links);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bin/pbmctl: there is another program"), "{refused:?}");
    assert!(fs::symlink_metadata(links.join("pbm")).is_err(), "nothing was changed");
    assert_eq!(fs::read(links.join("pbmctl")).expect("read"), b"another program");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_follows_the_new_name_of_its_member() {
    let sandbox = Sandbox::start(Options::default()).await;
    let old = sandbox.set.address_of(0);
    let new = old.replace("127.0.0.1", "localhost");
    assert_ne!(new, old);
    let admin = sandbox.set.client_of(0).await.database("admin");
    let answer = admin.run_command(doc! { "replSetGetConfig": 1 }).await.expect("read the configuration");
    let mut config = answer.get_document("config").expect("a configuration").clone();
    config.insert("version", config.get_i32("version").expect("a version") + 1);
    let members = config.get_array_mut("members").expect("members");
    members[0].as_document_mut().expect("a member").insert("host", &new);
    admin.run_command(doc! { "replSetReconfig": config }).await.expect("reconfigure");

    let nodes = until("the agent under its new name only", SOON, async || {
        let status = sandbox.pbm(&["status", "-s", "cluster", "-o", "json"]);
        let nodes = status.status.success().then(|| status.json()["cluster"][0]["nodes"].clone())?;
        (nodes.as_array()?.len() == 1 && nodes[0]["ok"] == true).then_some(nodes)
    })
    .await;
    assert_eq!(nodes[0]["host"], new.as_str(), "{nodes}");
    let text = sandbox.pbm(&["status", "-s", "cluster"]).ok().stdout;
    assert!(text.contains(&format!("pbm-agent v2.15.0 (pbmbox {}) ok", env!("CARGO_PKG_VERSION"))), "{text}");
    let name = sandbox.backup(&[]);
    let backup = sandbox.pbm(&["describe-backup", &name, "-o", "json"]).ok().json();
    assert_eq!(backup["replsets"][0]["node"], new.as_str(), "{backup}");
}
