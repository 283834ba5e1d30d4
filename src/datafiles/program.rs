//! Which mongod works on data files: the one of the settings, the one that runs here, or the one on the PATH.

use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// How a replaced or removed program is marked in `/proc`.
const DELETED: &str = " (deleted)";
/// The variable with the folders of shared libraries, which a mongod outside of the system's folders can need.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// Runs its arguments, and kills them at the end of standard input. What runs in the background of a shell reads nothing, so
/// the input gets a number of its own.
const GUARD: &str = r#"
exec 3<&0
"$@" 3<&- & child=$!
(cat <&3 >/dev/null; kill -9 $child 2>/dev/null) & guard=$!
exec 3<&-
wait $child; code=$?
kill $guard 2>/dev/null
exit $code
"#;

/// A mongod binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    libraries: Option<OsString>,
    version: String,
}

impl Program {
    /// Finds the binary: `given` by the settings, else that of the process `running`, else `mongod` on the PATH.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub async fn find(given: Option<&str>, running: Option<u32>) -> Result<Self> {
        let found = given.map(PathBuf::from).or_else(|| running.and_then(binary_of)).or_else(on_path);
        let Some(path) = found else {
            bail!(
                "there is no mongod binary for the data files: none is running here and none is on the PATH; name one \
                 with the setting restore.mongodLocation"
            );
        };
        let libraries = running.and_then(libraries_of);
        let version = version_of(&path, libraries.as_deref()).await?;
        Ok(Self { path, libraries, version })
    }

    /// Finds a binary whose shared libraries lie in a folder of their own.
    ///
    /// # Errors
    /// It does not start.
    pub async fn with_libraries(path: &Path, folder: &Path) -> Result<Self> {
        let libraries = folder.as_os_str().to_owned();
        let version = version_of(path, Some(&libraries)).await?;
        Ok(Self { path: path.to_owned(), libraries: Some(libraries), version })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For example `6.0.5`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that runs it, and kills it when our end of its standard input is closed: also when this process is killed.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = command(Path::new("sh"), self.libraries.as_deref());
        command.args(["-c", GUARD, "sh"]).arg(&self.path).stdin(Stdio::piped());
        command
    }
}

fn command(path: &Path, libraries: Option<&OsStr>) -> Command {
    let mut command = Command::new(path);
    if let Some(libraries) = libraries {
        command.env(LIBRARIES, libraries);
    }
    command
}

async fn version_of(path: &Path, libraries: Option<&OsStr>) -> Result<String> {
    let shown = path.display();
    let output = command(path, libraries).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("start {shown} to ask for its version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("db version v")) {
        Some(version) => Ok(version.trim().to_owned()),
        None => bail!(
            "'{shown} --version' printed no version: {}",
            text.lines().chain(String::from_utf8_lossy(&output.stderr).lines()).next().unwrap_or("nothing")
        ),
    }
}

/// The program of a process; `None` where that file is not there any more.
fn binary_of(pid: u32) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    (!link.as_os_str().as_bytes().ends_with(DELETED.as_bytes())).then_some(link)
}

fn libraries_of(pid: u32) -> Option<OsString> {
    let variables = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let wanted = format!("{LIBRARIES}=");
    let value = variables.split(|byte| *byte == 0).find_map(|it| it.strip_prefix(wanted.as_bytes()))?;
    Some(OsStr::from_bytes(value).to_owned())
}

fn on_path() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join("mongod")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_no_mongod_is_refused_with_what_it_printed() {
        let error = Program::find(Some("/bin/echo"), None).await.expect_err("no mongod");
        // What follows depends on the system.
        assert!(error.to_string().starts_with("'/bin/echo --version' printed no version: "), "{error}");
        let error = Program::find(Some("/no/such/mongod"), None).await.expect_err("no file");
        assert_eq!(error.to_string(), "start /no/such/mongod to ask for its version");
    }

    #[test]
    fn the_program_of_a_process_is_found() {
        let own = std::env::current_exe().expect("our path");
        assert_eq!(binary_of(std::process::id()), Some(own));
        assert_eq!(binary_of(u32::MAX), None);
    }
}
