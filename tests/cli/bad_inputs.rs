//! Every wrong value gives one clear line, its exit code, and changes nothing.

mod rows;

use crate::support::cluster::{Folder, Options};
use crate::support::programs::{Output, Sandbox};
use mongodb::bson::{Document, doc};
use rows::{CHOICES, COMMANDS, CONFIG, FILES, NAMES, NAMESPACES, NUMBERS, TIMES, URIS};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Calls at a time.
const AT_ONCE: usize = 4;
/// A line that people still read.
const LONGEST_LINE: usize = 600;

/// A row with its placeholders filled in.
struct Case {
    args: Vec<String>,
    code: u8,
    part: &'static str,
}

fn cases(filled: impl Fn(&str) -> String) -> Vec<Case> {
    let tables = [COMMANDS, CHOICES, NUMBERS, TIMES, NAMESPACES, NAMES, CONFIG];
    let mut cases: Vec<Case> = tables
        .into_iter()
        .flatten()
        .map(|&(args, code, part)| Case { args: args.iter().map(|arg| filled(arg)).collect(), code, part })
        .collect();
    cases.extend(FILES.iter().map(|&(name, _, part)| Case {
        args: vec!["config".into(), "--file".into(), filled(&format!("{{dir}}/{name}"))],
        code: 2,
        part,
    }));
    cases.extend(URIS.iter().map(|&(uri, code, part)| Case {
        args: vec!["--mongodb-uri".into(), filled(uri), "status".into()],
        code,
        part,
    }));
    cases
}

/// What is wrong with an answer in text.
fn text(case: &Case, got: &Output) -> Result<(), String> {
    let mut lines = got.stderr.lines();
    let first = lines.next().unwrap_or_default();
    if got.status.code() != Some(case.code.into()) {
        return Err(format!("exit code {:?} in place of {}", got.status.code(), case.code));
    }
    if !got.stdout.is_empty() {
        return Err(format!("stdout: {}", got.stdout));
    }
    if !first.strip_prefix("Error: ").is_some_and(|said| said.contains(case.part) && said.len() < LONGEST_LINE) {
        return Err(format!("no clear line with '{}'", case.part));
    }
    if lines.any(|line| !line.starts_with("Hint: ")) || got.stderr.contains("hunter2") {
        return Err("more than an error with its hints".to_owned());
    }
    Ok(())
}

/// What is wrong with an answer in JSON.
fn json(case: &Case, got: &Output) -> Result<(), String> {
    let value: Value = serde_json::from_str(&got.stdout).map_err(|error| format!("stdout is no JSON: {error}"))?;
    let said = value["Error"].as_str().ok_or("no Error")?;
    let class = value["Class"].as_str().ok_or("no Class")?;
    let word = match case.code {
        1 => "other",
        2 => "usage",
        3 => "connection",
        4 => "refused",
        5 => "not-found",
        _ => "storage",
    };
    let code = i64::from(case.code);
    let right = got.status.code() == Some(case.code.into()) && value["Code"].as_i64() == Some(code);
    match (right, class == word, said.contains(case.part) && !said.contains('\n'), got.stderr.is_empty()) {
        (true, true, true, true) => Ok(()),
        _ => Err(format!("not the error with '{}', class {word}, code {code}", case.part)),
    }
}

fn check(sandbox: &Sandbox, case: &Case) -> Vec<String> {
    let args: Vec<&str> = case.args.iter().map(String::as_str).collect();
    let told = |why: String, got: &Output| {
        format!("{:?}: {why}\n  code {:?}\n  stdout {}\n  stderr {}", args, got.status.code(), got.stdout, got.stderr)
    };
    let got = sandbox.pbm(&args);
    let mut problems: Vec<String> = text(case, &got).err().into_iter().map(|why| told(why, &got)).collect();
    // Of an export `-o` is the file.
    if args.first() != Some(&"export") && !args.iter().any(|arg| arg.starts_with("-o") || arg.starts_with("--out")) {
        let got = sandbox.pbm(&[&["-o", "json"], &args[..]].concat());
        problems.extend(json(case, &got).err().map(|why| told(why, &got)));
    }
    problems
}

/// Everything that a command could have changed.
async fn control(sandbox: &Sandbox) -> BTreeMap<String, Vec<Document>> {
    let client = sandbox.set.client().await;
    let mut all = BTreeMap::new();
    for name in client.list_database_names().await.expect("databases") {
        all.insert(name, Vec::new());
    }
    let names = ["pbmCmd", "pbmConfig", "pbmBackups", "pbmRestores", "pbmLock", "pbmLockOp", "pbmOpLog", "pbmPITR"];
    for name in names.into_iter().chain(["pbmPITRChunks"]) {
        // A ring of the bell, which is no operation, has nothing but its `_id`.
        let filter = if name == "pbmOpLog" {
            doc! { "opid": { "$exists": true } }
        } else {
            doc! {}
        };
        let mut found = client.database("admin").collection(name).find(filter).await.expect(name);
        let mut documents = Vec::new();
        while found.advance().await.expect(name) {
            documents.push(found.deserialize_current().expect(name));
        }
        all.insert(name.to_owned(), documents);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_value_is_refused_in_one_line_and_changes_nothing() {
    let sandbox = Sandbox::start(Options { auth: true, ..Options::default() }).await;
    let client = sandbox.set.client().await;
    client.database("shop").collection("orders").insert_one(doc! { "_id": 1 }).await.expect("insert");
    let backup = sandbox.backup(&[]);
    let dir = Folder::new("inputs");
    for (name, content, _) in FILES {
        fs::write(dir.path().join(name), content).expect("write");
    }
    let good = format!("storage: {{type: filesystem, filesystem: {{path: {}}}}}\n", sandbox.store().display());
    fs::write(dir.path().join("good.yaml"), good).expect("write");

    let uri = sandbox.set.uri();
    let host = uri.rsplit('@').next().and_then(|rest| rest.split(['/', '?']).next()).expect("a host").to_owned();
    let cases = cases(|text| {
        let text = text.replace("{backup}", &backup).replace("{dir}", &dir.path().display().to_string());
        text.replace("{host}", &host).replace("{long}", &"x".repeat(300))
    });
    assert!(cases.len() >= 150, "{} rows", cases.len());
    let before = control(&sandbox).await;

    let next = AtomicUsize::new(0);
    let problems: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut problems = Vec::new();
            while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                problems.extend(check(&sandbox, case));
            }
            problems
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    assert!(problems.is_empty(), "{} of {} rows\n{}", problems.len(), cases.len(), problems.join("\n"));
    assert_eq!(control(&sandbox).await, before, "something was changed");
}
