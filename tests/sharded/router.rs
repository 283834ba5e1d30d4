//! A mongos is refused, with the address to use in its place. There is none on the test machine, so a double gives the two
//! answers of a mongos that count: `hello` and `getShardMap`.

use crate::support::programs::Programs;
use mongodb::bson::{Document, doc};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;

fn answer(command: &Document) -> Document {
    match command.keys().next().map(String::as_str) {
        Some("hello" | "isMaster" | "ismaster") => doc! {
            "ismaster": true, "isWritablePrimary": true, "helloOk": true, "msg": "isdbgrid", "minWireVersion": 0,
            "maxWireVersion": 17, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "ok": 1.0,
        },
        Some("getShardMap") => doc! {
            "map": { "config": "cfgrs/cfg1:27019,cfg2:27019", "rs1": "rs1/a:27018" }, "ok": 1.0,
        },
        _ => doc! { "ok": 1.0 },
    }
}

/// Answers until the other side goes.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let field = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (length, request, kind) = (field(0), field(4), field(12));
        let mut body = vec![0; usize::try_from(length).expect("a length") - header.len()];
        stream.read_exact(&mut body)?;
        let at = match kind {
            OP_MSG => 5,
            OP_QUERY => 4 + body[4..].iter().position(|byte| *byte == 0).expect("a name's end") + 1 + 8,
            other => panic!("message of kind {other}"),
        };
        let command = Document::from_reader(&body[at..]).expect("a command");
        let answer = answer(&command).to_vec().expect("BSON");
        let (kind, prefix) = match kind {
            OP_MSG => (OP_MSG, vec![0; 5]),
            // Flags, cursor, first, number of documents.
            _ => (OP_REPLY, [&[0; 16][..], &1_i32.to_le_bytes()].concat()),
        };
        let length = i32::try_from(header.len() + prefix.len() + answer.len()).expect("short");
        for part in [length, 0, request, kind] {
            stream.write_all(&part.to_le_bytes())?;
        }
        stream.write_all(&prefix)?;
        stream.write_all(&answer)?;
    }
}

#[test]
fn a_router_is_refused_with_the_address_of_the_config_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let uri = format!("mongodb://{}/", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An error is the end of the connection.
            std::thread::spawn(move || drop(serve(stream)));
        }
    });
    let programs = Programs::new();
    for (program, args) in [("pbm", &["status"][..]), ("pbm", &["backup"]), ("pbm-agent", &[])] {
        let output = programs.command(program).env("PBM_MONGODB_URI", &uri).args(args).output().expect("run it");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{program}: {said}");
        assert!(
            said.contains("mongos") && said.contains("mongodb://cfg1:27019,cfg2:27019/?replicaSet=cfgrs"),
            "{said}"
        );
    }
}
