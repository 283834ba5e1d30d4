//! The real binary through real symlinks: agents as child processes, the command line as calls.

use super::cluster::{Folder, Options, ReplicaSet};
use super::cut::Tunnels;
use mongodb::bson::{Document, doc};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A folder with all programs.
#[derive(Debug)]
pub struct Programs {
    folder: Folder,
    /// What they find in their environment besides.
    pub environment: Vec<(String, String)>,
}

impl Programs {
    pub fn new() -> Self {
        let folder = Folder::new("bin");
        for name in ["pbm", "pbm-agent", "pbm-agent-entrypoint", "pbm-speed-test", "pbmctl"] {
            symlink(env!("CARGO_BIN_EXE_pbmbox"), folder.path().join(name)).expect("link the program");
        }
        Self { folder, environment: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command with nothing from our own environment.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.path(name));
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What a call of the command line gave.
#[derive(Debug, Clone)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

impl Output {
    /// Panics with everything that was printed unless the call succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr);
        self
    }

    /// Panics if the call succeeded.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert!(!self.status.success(), "it succeeded\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not one JSON value: {e}\n{}{}", self.stdout, self.stderr))
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Option<Child>,
    log: PathBuf,
    _folder: Folder,
}

impl Agent {
    pub fn start(programs: &Programs, uri: &str) -> Self {
        Self::run(programs.command("pbm-agent"), uri)
    }

    /// An agent that can make no file larger than `kilobytes`: the lack of room that needs no file system of its own.
    pub fn start_without_room(programs: &Programs, uri: &str, kilobytes: u32) -> Self {
        let mut shell = Command::new("sh");
        // The unit is 512 bytes. Without the trap the kernel would end the process.
        let limited = format!("ulimit -f {} && trap '' XFSZ && exec \"$0\"", kilobytes * 2);
        shell.args(["-c", &limited]).arg(programs.path("pbm-agent"));
        shell.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        Self::run(shell, uri)
    }

    /// An agent whose network can be cut.
    pub fn start_behind(tunnels: &Tunnels, programs: &Programs, uri: &str) -> Self {
        Self::run(tunnels.command(&programs.path("pbm-agent")), uri)
    }

    fn run(mut command: Command, uri: &str) -> Self {
        let folder = Folder::new("agent");
        let log = folder.path().join("log");
        let process = command
            .env("PBM_MONGODB_URI", uri)
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("make the agent's log"))
            .spawn()
            .expect("start pbm-agent");
        Self { process: Some(process), log, _folder: folder }
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running agent").id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGTERM; gives the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running agent");
        signal(process.id(), "TERM");
        super::wait::until("the agent to end", Duration::from_secs(70), async || process.try_wait().expect("wait"))
            .await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- agent's log\n{}", self.log());
        }
    }
}

/// Sends a signal by name to a process that we started.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("run sh");
    assert!(sent.success(), "signal {name} to {pid}");
}

/// What agents run for: one replica set, or a sharded cluster.
pub trait Deployment {
    /// The replica set with the control collections, which the command line is given.
    fn leader(&self) -> &ReplicaSet;
    /// All replica sets.
    fn sets(&self) -> Vec<&ReplicaSet>;
}

impl Deployment for ReplicaSet {
    fn leader(&self) -> &ReplicaSet {
        self
    }

    fn sets(&self) -> Vec<&ReplicaSet> {
        vec![self]
    }
}

/// A replica set (or a sharded cluster) with an agent for every member and a folder as its storage.
#[derive(Debug)]
pub struct Sandbox<D = ReplicaSet> {
    pub agents: Vec<Agent>,
    pub programs: Programs,
    pub set: D,
    pub storage: Folder,
}

impl Sandbox {
    /// Everything up, configured, and seen by the agents.
    pub async fn start(options: Options) -> Self {
        let sandbox = Self::unconfigured(options).await;
        sandbox.configure(&[]).await;
        sandbox
    }

    /// Agents run, but nothing is configured.
    pub async fn unconfigured(options: Options) -> Self {
        Self::around(ReplicaSet::start(options).await).await
    }
}

impl<D: Deployment> Sandbox<D> {
    /// Agents for a running deployment; nothing is configured.
    pub async fn around(set: D) -> Self {
        let programs = Programs::new();
        let agents = set
            .sets()
            .into_iter()
            .flat_map(|set| (0..set.size()).map(|n| set.uri_of(n)))
            .map(|uri| Agent::start(&programs, &uri))
            .collect();
        let sandbox = Self { agents, programs, set, storage: Folder::new("store") };
        let client = sandbox.set.leader().client().await;
        super::wait::until("the agents' lines", Duration::from_secs(30), async || {
            let there = client.database("admin").collection::<Document>("pbmAgents").count_documents(doc! {}).await;
            (there.unwrap_or(0) >= sandbox.agents.len() as u64).then_some(())
        })
        .await;
        sandbox
    }

    /// Applies a configuration with the sandbox's own storage folder and `more` settings, as `key=value`.
    pub async fn configure(&self, more: &[&str]) {
        self.configure_at(&self.store(), more).await;
    }

    /// As [`Self::configure`], with another folder as the storage.
    pub async fn configure_at(&self, store: &Path, more: &[&str]) {
        self.configure_with(&format!("type: filesystem\n  filesystem:\n    path: {}", store.display()), more).await;
    }

    /// As [`Self::configure`], with any storage: what follows `storage:` in the file, indented by two spaces.
    pub async fn configure_with(&self, storage: &str, more: &[&str]) {
        let file = self.storage.path().join("config.yaml");
        fs::write(&file, format!("storage:\n  {storage}\n")).expect("write the configuration");
        self.pbm(&["config", "--file", &file.display().to_string(), "--wait"]).ok();
        fs::remove_file(&file).expect("remove the configuration");
        for setting in more {
            self.pbm(&["config", "--set", setting]).ok();
        }
        let client = self.set.leader().client().await;
        super::wait::until("the agents to see the storage", Duration::from_secs(30), async || {
            let agents = client.database("admin").collection::<Document>("pbmAgents");
            let ready = agents.count_documents(doc! { "stors.ok": true }).await;
            (ready.unwrap_or(0) >= self.agents.len() as u64).then_some(())
        })
        .await;
    }

    /// The storage's root.
    pub fn store(&self) -> PathBuf {
        self.storage.path().join("backups")
    }

    /// Calls the command line and waits for its end.
    pub fn pbm(&self, args: &[&str]) -> Output {
        self.call("pbm", args)
    }

    /// Calls any of the programs and waits for its end.
    pub fn call(&self, program: &str, args: &[&str]) -> Output {
        let output = self
            .programs
            .command(program)
            .env("PBM_MONGODB_URI", self.set.leader().uri())
            .args(args)
            .output()
            .expect("run pbm");
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status,
        }
    }

    /// Starts the command line and does not wait.
    pub fn pbm_spawn(&self, args: &[&str]) -> Child {
        self.programs
            .command("pbm")
            .env("PBM_MONGODB_URI", self.set.leader().uri())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run pbm")
    }

    /// A finished backup's name.
    pub fn backup(&self, args: &[&str]) -> String {
        let mut all = vec!["backup", "--wait", "-o", "json"];
        all.extend(args);
        let done = self.pbm(&all).ok();
        done.json()["name"].as_str().expect("a name").to_owned()
    }
}
