//! Azurite, the emulator of Azure Blob Storage, as a process of the test's own, with one empty container.

use super::cluster::Folder;
use base64::{Engine, prelude::BASE64_STANDARD};
use pbmbox::storage::http::{HttpClient, Settings};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The account that every Azurite has.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
pub const CONTAINER: &str = "backups";

/// A running emulator; ends with the value.
pub struct Azurite {
    process: Child,
    pub endpoint: String,
    _folder: Folder,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Azurite {
    pub async fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(".cache/testbed/azurite/node_modules/azurite/dist/src/blob/main.js");
        assert!(program.exists(), "Azurite is missing; get it with dev/testbed.sh");
        let folder = Folder::new("azurite");
        let mut process = Command::new("node")
            .arg(program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck", "--disableTelemetry"])
            .arg("--location")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start node; get it with dev/testbed.sh");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let address = loop {
            let line = lines.next().expect("Azurite ended at its start").expect("read its output");
            if let Some((_, address)) = line.split_once("successfully listens on ") {
                break address.trim().to_owned();
            }
        };
        // It stops when nobody reads what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        let it = Self { process, endpoint: format!("{address}/{ACCOUNT}"), _folder: folder };
        it.create_container(&address).await;
        it
    }

    async fn create_container(&self, address: &str) {
        let now = httpdate();
        let version = "2021-08-06";
        let resource = format!("/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container");
        let text = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{now}\nx-ms-version:{version}\n{resource}");
        let signature = BASE64_STANDARD.encode(hmac(&BASE64_STANDARD.decode(KEY).expect("base64"), text.as_bytes()));
        let request = http::Request::put(format!("{address}/{ACCOUNT}/{CONTAINER}?restype=container"))
            .header("x-ms-date", now)
            .header("x-ms-version", version)
            .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"))
            .body(bytes::Bytes::new())
            .expect("a request");
        let client = HttpClient::new(Settings::default()).expect("a client");
        let answer = client.send_whole(request, 10_000).await.expect("an answer");
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

/// A signature that allows everything on the account's blobs until 2099.
pub fn shared_access_signature() -> String {
    let (version, until) = ("2020-08-04", "2099-01-01T00:00:00Z");
    let text = format!("{ACCOUNT}\nrwdlac\nb\nsco\n\n{until}\n\nhttps,http\n{version}\n");
    let signature = BASE64_STANDARD.encode(hmac(&BASE64_STANDARD.decode(KEY).expect("base64"), text.as_bytes()));
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("?sv={version}&ss=b&srt=sco&sp=rwdlac&se={}&spr=https,http&sig={signature}", until.replace(':', "%3A"))
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// The time as HTTP writes it.
fn httpdate() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
