//! How mongod is stopped and started on this host.
//!
//! | mongod was started by | it is stopped by | and started by |
//! |---|---|---|
//! | a unit of systemd | `systemctl stop`, so that no restart policy interferes | `systemctl start` |
//! | anybody else | its own `shutdown` | the same command line, folder, environment and user |
//! | (the settings name commands) | `restore.physical.stopCommand` | `restore.physical.startCommand` |

use crate::mongo::admin::explain;
use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use mongodb::Client;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::Instant;

/// How long mongod may take to stop, as in the original.
const STOP: Duration = Duration::from_secs(30 * 60);
/// How long a command that starts or stops it may take.
const COMMAND: Duration = Duration::from_secs(15 * 60);
const LOOK: Duration = Duration::from_millis(50);

/// Commands of the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commands {
    pub start: Option<String>,
    pub stop: Option<String>,
}

/// The mongod of this agent, as a process of this host.
#[derive(Debug, Clone)]
pub struct Host {
    pub pid: u32,
    pub db_path: PathBuf,
    way: Way,
    commands: Commands,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Unit(String),
    CommandLine(Box<CommandLine>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct CommandLine {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    user: (u32, u32),
}

impl Host {
    /// Finds the process, and checks that it can be stopped and started from here.
    ///
    /// # Errors
    /// The process is not on this host, or this agent may not start it again; says what to do.
    pub async fn find(node: &Client, commands: Commands) -> Result<Self> {
        let admin = node.database("admin");
        let status = admin.run_command(doc! { "serverStatus": 1 }).await.context("run serverStatus")?;
        let pid = status.get("pid").and_then(number).context("serverStatus has no process id")?;
        let options = admin.run_command(doc! { "getCmdLineOpts": 1 }).await.context("run getCmdLineOpts")?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let folder = std::fs::read_link(process.join("cwd")).unwrap_or_else(|_| "/".into());
        let db_path = folder.join(db_path_of(&options));
        check_process(pid, &db_path)?;
        let unit = unit_of(&std::fs::read_to_string(process.join("cgroup")).unwrap_or_default());
        let way = match unit {
            Some(unit) => Way::Unit(unit),
            None => Way::CommandLine(Box::new(command_line(&process, folder)?)),
        };
        let host = Self { pid, db_path, way, commands };
        host.check_rights()?;
        Ok(host)
    }

    /// How it will be started again, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.commands.start, &self.way) {
            (Some(command), _) => format!("with '{command}' (restore.physical.startCommand)"),
            (None, Way::Unit(unit)) => format!("with 'systemctl start {unit}'"),
            (None, Way::CommandLine(line)) => format!("with its command line ({})", line.program.display()),
        }
    }

    fn check_rights(&self) -> Result<()> {
        let own = unit_of(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
        let root = rustix::process::geteuid().is_root();
        match &self.way {
            Way::Unit(unit) if !root && (self.commands.start.is_none() || self.commands.stop.is_none()) => bail!(
                "mongod runs as the unit {unit}, and this agent is not root, so it may not stop and start it; allow it a command for \
                 that and set restore.physical.stopCommand and startCommand, for example to 'sudo -n systemctl stop {unit}' and \
                 'sudo -n systemctl start {unit}'"
            ),
            Way::CommandLine(_) if own.is_some() && self.commands.start.is_none() => bail!(
                "mongod was not started by a unit, and this agent runs as the unit {}: a mongod that it starts would end with it; set \
                 restore.physical.startCommand to what starts mongod on this host",
                own.unwrap_or_default()
            ),
            _ => Ok(()),
        }
    }

    /// Stops mongod and waits until the process is gone.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop(&self, node: &Client) -> Result<()> {
        match (&self.commands.stop, &self.way) {
            (Some(command), _) => run("sh", &["-c", command]).await?,
            (None, Way::Unit(unit)) => run("systemctl", &["stop", unit]).await?,
            (None, Way::CommandLine(_)) => {
                // The answer is lost with the connection. If it fails, the process stays, which is seen.
                let command = doc! { "shutdown": 1, "force": true, "timeoutSecs": 0 };
                if let Err(error) = node.database("admin").run_command(command).await {
                    tracing::debug!("shutdown: {}", explain(&error.into()));
                }
            }
        }
        let since = Instant::now();
        while is_alive(self.pid) {
            ensure!(
                since.elapsed() < STOP,
                "mongod (process {}) has not stopped within {} min",
                self.pid,
                STOP.as_secs() / 60
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Checks that nothing has started mongod again, for example a supervisor that this agent does not know.
    ///
    /// # Errors
    /// A mongod runs on the dbPath.
    pub fn check_stopped(&self) -> Result<()> {
        if let Some(pid) = self.running() {
            bail!(
                "something has started mongod again (process {pid}) while its data is to be replaced: set \
                 restore.physical.stopCommand and startCommand to what stops and starts it on this host"
            );
        }
        Ok(())
    }

    /// The process that uses the dbPath now.
    fn running(&self) -> Option<u32> {
        let lock = std::fs::read_to_string(self.db_path.join("mongod.lock")).ok()?;
        lock.trim().parse().ok().filter(|pid| is_alive(*pid))
    }

    /// Starts mongod. It may not answer yet when this returns.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start(&self) -> Result<()> {
        match (&self.commands.start, &self.way) {
            (Some(command), _) => run("sh", &["-c", command]).await,
            (None, Way::Unit(unit)) => run("systemctl", &["start", unit]).await,
            (None, Way::CommandLine(line)) => line.start(),
        }
    }

    /// Stops a mongod that was started again, whatever its state.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop_again(&self) -> Result<()> {
        let Some(pid) = self.running() else { return Ok(()) };
        match (&self.commands.stop, &self.way) {
            (Some(command), _) => run("sh", &["-c", command]).await?,
            (None, Way::Unit(unit)) => run("systemctl", &["stop", unit]).await?,
            (None, Way::CommandLine(_)) => {
                let id = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
                rustix::process::kill_process(id, rustix::process::Signal::TERM).context("stop mongod")?;
            }
        }
        let since = Instant::now();
        while is_alive(pid) {
            ensure!(since.elapsed() < STOP, "mongod (process {pid}) has not stopped");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl CommandLine {
    fn start(&self) -> Result<()> {
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if rustix::process::geteuid().is_root() && self.user.0 != 0 {
            std::os::unix::process::CommandExt::uid(&mut command, self.user.0);
            std::os::unix::process::CommandExt::gid(&mut command, self.user.1);
        }
        command.spawn().with_context(|| format!("start {}", self.program.display())).map(drop)
    }
}

fn number(value: &bson::Bson) -> Option<u32> {
    let number = value.as_i64().or_else(|| value.as_i32().map(i64::from))?;
    u32::try_from(number).ok()
}

fn db_path_of(options: &Document) -> PathBuf {
    let storage = options.get_document("parsed").and_then(|it| it.get_document("storage"));
    storage.and_then(|it| it.get_str("dbPath")).map_or_else(|_| "/data/db".into(), PathBuf::from)
}

/// The process is on this host if the lock file of its dbPath, as we see it, has its number.
fn check_process(pid: u32, db_path: &Path) -> Result<()> {
    let lock = db_path.join("mongod.lock");
    let found = std::fs::read_to_string(&lock).with_context(|| {
        format!(
            "read {}: a physical restore needs the agent on the host of its mongod, in the same container if there is one, and as \
             the same user or root",
            lock.display()
        )
    })?;
    ensure!(
        found.trim() == pid.to_string() && is_alive(pid),
        "{} is not of the mongod of this agent (process {pid}): is that mongod on another host or in another container?",
        lock.display()
    );
    Ok(())
}

fn is_alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with('Z') && !state.starts_with('X')
}

/// The unit of systemd that a process belongs to, by its cgroup.
fn unit_of(cgroup: &str) -> Option<String> {
    let own = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|it| it.1)))?;
    let last = own.rsplit('/').find(|part| part.ends_with(".service"))?;
    // What is started in a login belongs to the manager of that user, and not to a unit of its own.
    (!last.starts_with("user@") && !own.contains("/user.slice/")).then(|| last.to_owned())
}

fn command_line(process: &Path, folder: PathBuf) -> Result<CommandLine> {
    let read = |name: &str| {
        let path = process.join(name);
        std::fs::read(&path).with_context(|| format!("read {}, to start mongod again later", path.display()))
    };
    let mut words = split(&read("cmdline")?).into_iter();
    let called = words.next().context("mongod has an empty command line")?;
    let link = std::fs::read_link(process.join("exe")).context("find the program of mongod")?;
    let program = if link.exists() { link } else { PathBuf::from(called) };
    let environment = split(&read("environ")?).iter().filter_map(|it| assignment(it)).collect();
    let about = std::fs::metadata(process).context("find the user of mongod")?;
    Ok(CommandLine { program, arguments: words.collect(), environment, folder, user: (about.uid(), about.gid()) })
}

fn split(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

fn assignment(word: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    Some((OsStr::from_bytes(&bytes[..at]).to_owned(), OsStr::from_bytes(&bytes[at + 1..]).to_owned()))
}

async fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let shown = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND, output)
        .await
        .with_context(|| format!("'{shown}' has not ended within {} min", COMMAND.as_secs() / 60))?
        .with_context(|| format!("run '{shown}'"))?;
    ensure!(
        output.status.success(),
        "'{shown}' ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_recognised_by_the_cgroup() {
        for (cgroup, unit) in [
            ("0::/system.slice/mongod.service\n", Some("mongod.service")),
            ("1:name=systemd:/system.slice/mongod@one.service\n0::/\n", Some("mongod@one.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope", None),
            ("0::/user.slice/user-1000.slice/session-3.scope", None),
            ("0::/docker/0123456789", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup).as_deref(), unit, "{cgroup}");
        }
    }

    #[test]
    fn the_command_line_of_a_process_is_read() {
        let pid = std::process::id();
        let line = command_line(Path::new(&format!("/proc/{pid}")), "/".into()).expect("our own");
        assert_eq!(line.program, std::env::current_exe().expect("our program"));
        assert_eq!(line.arguments, std::env::args_os().skip(1).collect::<Vec<_>>());
        let path = line.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        assert_eq!(path, std::env::var_os("PATH"));
        assert!(is_alive(pid) && !is_alive(u32::MAX));
    }

    #[test]
    fn another_hosts_mongod_is_refused() {
        let error = check_process(1, Path::new("/no/such/folder")).expect_err("no lock file");
        assert!(format!("{error:#}").contains("on the host of its mongod"), "{error:#}");
    }
}
