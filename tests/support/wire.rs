//! Commands to one server exactly as given. The driver adds a session of its own to every command; who plays the router
//! has to choose the session, and to use the same one on several shards.

use super::cluster::{PASSWORD, USER};
use base64::{Engine, engine::general_purpose::STANDARD};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a server answers when it does not do as told.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: i32,
    pub name: String,
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.code, self.message)
    }
}

impl Refusal {
    fn of(reply: &Document) -> Self {
        Self {
            code: reply.get_i32("code").unwrap_or(0),
            name: reply.get_str("codeName").unwrap_or_default().to_owned(),
            message: reply.get_str("errmsg").unwrap_or_default().to_owned(),
        }
    }
}

/// A connection to one server.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Connects, and with `auth` as the user of the agents.
    pub async fn connect(address: &str, auth: bool) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect to the server");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        let mut wire = Self { stream };
        if auth {
            wire.authenticate().await;
        }
        wire
    }

    /// Gives the reply, or what the server has against the command or its writes; and in both cases `$clusterTime`.
    pub async fn run(&mut self, db: &str, command: Document) -> (Result<Document, Refusal>, Option<Document>) {
        let reply = self.exchange(db, command).await;
        let time = reply.get_document("$clusterTime").ok().cloned();
        (Self::judge(reply), time)
    }

    fn judge(reply: Document) -> Result<Document, Refusal> {
        let worked = matches!(reply.get("ok"), Some(Bson::Double(ok)) if *ok == 1.0);
        if !worked {
            return Err(Refusal::of(&reply));
        }
        let errors = reply.get_array("writeErrors").ok().and_then(|all| all.first()).and_then(Bson::as_document);
        let concern = reply.get_document("writeConcernError").ok();
        match errors.or(concern) {
            Some(error) => Err(Refusal::of(error)),
            None => Ok(reply),
        }
    }

    async fn exchange(&mut self, db: &str, mut command: Document) -> Document {
        command.insert("$db", db);
        let body = command.to_vec().expect("a command as BSON");
        let length = i32::try_from(16 + 4 + 1 + body.len()).expect("a command of a sane size");
        let mut message = Vec::with_capacity(21 + body.len());
        // Header: length, request id, the id answered to, OP_MSG; then no flags and one section of kind 0.
        for field in [length, 1, 0, 2013, 0] {
            message.extend(field.to_le_bytes());
        }
        message.push(0);
        message.extend(body);
        self.stream.write_all(&message).await.expect("send a command");
        let mut header = [0; 21];
        self.stream.read_exact(&mut header).await.expect("receive a reply");
        let length = i32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let mut body = vec![0; usize::try_from(length).expect("a length") - header.len()];
        self.stream.read_exact(&mut body).await.expect("receive a reply");
        Document::from_reader(&body[..]).expect("a reply as BSON")
    }

    /// SCRAM-SHA-256 (RFC 7677).
    async fn authenticate(&mut self) {
        let nonce: String = STANDARD.encode(rand::random::<[u8; 18]>());
        let first = format!("n={USER},r={nonce}");
        let payload = |text: &str| Binary { subtype: BinarySubtype::Generic, bytes: text.as_bytes().to_vec() };
        let start = doc! {
            "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload(&format!("n,,{first}")),
            "options": { "skipEmptyExchange": true },
        };
        let reply = self.run("admin", start).await.0.expect("begin to authenticate");
        let challenge =
            String::from_utf8(reply.get_binary_generic("payload").expect("a payload").clone()).expect("text");
        let part = |name: &str| {
            let found = challenge.split(',').find_map(|part| part.strip_prefix(name)).expect("a part of the challenge");
            found.to_owned()
        };
        let salt = STANDARD.decode(part("s=")).expect("a salt");
        let salted = stretch(PASSWORD.as_bytes(), &salt, part("i=").parse().expect("a number"));
        let last = format!("c=biws,r={}", part("r="));
        let key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(key), format!("{first},{challenge},{last}").as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let answer = doc! {
            "saslContinue": 1, "conversationId": reply.get("conversationId").cloned(),
            "payload": payload(&format!("{last},p={}", STANDARD.encode(proof))),
        };
        let reply = self.run("admin", answer).await.0.expect("authenticate");
        assert!(reply.get_bool("done").expect("done"), "{reply}");
    }
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// PBKDF2 with one block.
fn stretch(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 32] {
    let mut last = hmac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut all = last;
    for _ in 1..rounds {
        last = hmac(password, &last);
        all.iter_mut().zip(last).for_each(|(a, b)| *a ^= b);
    }
    all
}
