//! Garage, an S3 store that verifies more than s3s-fs does, for the longer mode of the store tests: `PBMBOX_GARAGE` names its
//! program (`cargo install garage --version 2.5.0`).

use super::cluster::{Folder, free_port};
use super::objects::{BUCKET, KEY, SECRET};
use super::wait;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A store of one node; ends with the value.
pub struct Garage {
    process: Child,
    pub address: SocketAddr,
    _folder: Folder,
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program, if the longer mode is on.
pub fn program() -> Option<PathBuf> {
    std::env::var_os("PBMBOX_GARAGE").map(PathBuf::from)
}

impl Garage {
    /// Starts with one empty bucket, [`BUCKET`].
    pub async fn start(program: &Path) -> Self {
        let folder = Folder::new("garage");
        let (rpc, s3) = (free_port(), free_port());
        let at = folder.path().display();
        let config = folder.path().join("garage.toml");
        let text = format!(
            "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{}\"\n\
             [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{s3}\"\nroot_domain = \".localhost\"\n",
            "07".repeat(32)
        );
        std::fs::write(&config, text).expect("write Garage's configuration");
        let process = Command::new(program)
            .arg("-c")
            .arg(&config)
            .arg("server")
            .env("RUST_LOG", "garage=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        let it = Self { process, address: SocketAddr::from(([127, 0, 0, 1], s3)), _folder: folder };
        let said = |args: &[&str]| {
            let out = Command::new(program).arg("-c").arg(&config).args(args).output().expect("run Garage's commands");
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let node = wait::until("Garage to answer", Duration::from_secs(20), async || {
            said(&["status"])?;
            said(&["node", "id", "-q"])
        })
        .await;
        let node = node.split('@').next().unwrap_or_default().trim();
        for command in [
            &["layout", "assign", "-z", "dc1", "-c", "10G", node][..],
            &["layout", "apply", "--version", "1"],
            &["key", "import", "--yes", "-n", "test", KEY, SECRET],
            &["bucket", "create", BUCKET],
            &["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", KEY],
        ] {
            said(command).unwrap_or_else(|| panic!("Garage refused {command:?}"));
        }
        it
    }
}
