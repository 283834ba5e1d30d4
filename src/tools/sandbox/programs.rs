//! This program under its names, as users call it.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Links to the program, and the address that the command line is given.
pub struct Programs {
    pub folder: PathBuf,
    pub uri: String,
}

impl Programs {
    /// Makes links to this executable in `folder`.
    pub fn new(folder: PathBuf, uri: String) -> Result<Self> {
        let own = std::env::current_exe().context("find the path of this executable")?;
        Self::of(&own, folder, uri)
    }

    /// Makes links to `executable` in `folder`.
    pub fn of(executable: &Path, folder: PathBuf, uri: String) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        for name in ["pbm", "pbm-agent"] {
            symlink(executable, folder.join(name)).with_context(|| format!("link {name} in {}", folder.display()))?;
        }
        Ok(Self { folder, uri })
    }

    /// The same programs for another cluster.
    pub fn at(&self, uri: &str) -> Self {
        Self { folder: self.folder.clone(), uri: uri.to_owned() }
    }

    pub fn agent(&self) -> PathBuf {
        self.folder.join("pbm-agent")
    }

    fn pbm(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join("pbm"));
        command.env("PBM_MONGODB_URI", &self.uri).args(args).kill_on_drop(true);
        command
    }

    /// Shows a command as a user types it, runs it, and shows its output.
    pub async fn show(&self, args: &[&str]) -> Result<()> {
        println!("\n  $ pbm {}", args.join(" "));
        let done = self.pbm(args).output().await.context("run pbm")?;
        for line in String::from_utf8_lossy(&done.stderr).lines().chain(String::from_utf8_lossy(&done.stdout).lines()) {
            println!("    {line}");
        }
        ensure!(done.status.success(), "pbm {} failed with {}", args.join(" "), done.status);
        Ok(())
    }

    /// Runs a command and returns its output.
    pub async fn text(&self, args: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } =
            self.pbm(args).stdin(Stdio::null()).output().await.context("run pbm")?;
        let (out, error) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        if !status.success() {
            bail!("pbm {} failed with {status}: {}{}", args.join(" "), error.trim(), out.trim());
        }
        Ok(out.into_owned())
    }

    /// Runs a command and returns its result.
    pub async fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let out = self.text(&all).await?;
        serde_json::from_str(&out).with_context(|| format!("read what pbm {} printed", args.join(" ")))
    }

    pub async fn last_backup(&self) -> Result<String> {
        let list = self.json(&["list"]).await?;
        Ok(list["snapshots"][0]["name"].as_str().context("pbm list shows no backup")?.to_owned())
    }

    /// Starts a command that goes on until [`Running::end`].
    pub fn start(&self, args: &[&str]) -> Result<Running> {
        let mut command = self.pbm(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Running(command.spawn().context("run pbm")?))
    }
}

/// A command that runs.
pub struct Running(Child);

impl Running {
    /// Waits for its first line.
    pub async fn first_line(&mut self) -> Result<String> {
        let out = self.0.stdout.as_mut().context("its output was taken")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await.context("read the output of pbm")?;
        ensure!(!line.is_empty(), "pbm ended and printed nothing");
        Ok(line)
    }

    /// Ends it as Ctrl-C does, so that it can clean up.
    pub async fn end(mut self) -> Result<()> {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::INT).context("send SIGINT to pbm")?;
        }
        self.0.wait().await.context("wait for the end of pbm").map(drop)
    }
}
