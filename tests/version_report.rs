//! `pbmbox sandbox --version-report`, on servers that answer as others would.

use crate::support::cluster::{Folder, Options, Version, binary};
use crate::support::doctored::Doctor;
use crate::support::programs::Sandbox;
use bson::Bson;
use pbmbox::tools::sandbox::programs::Programs;
use pbmbox::tools::sandbox::version_report::{Subject, Verdict, examine};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_what_was_planted_in_a_server_of_8_0() {
    let made = AtomicUsize::new(0);
    // The index loses an option whenever somebody makes it again.
    let doctor = Doctor::version("8.0.4", "8.0").instead(move |asked, ask| {
        let mut command = asked.command.clone();
        if asked.name != "createIndexes" {
            return None;
        }
        let indexes = command.get_array_mut("indexes").ok()?;
        let sparse = indexes
            .iter_mut()
            .filter_map(Bson::as_document_mut)
            .find(|it| it.get_str("name").is_ok_and(|name| name == "sparse index"))?;
        if made.fetch_add(1, Ordering::Relaxed) > 0 {
            sparse.remove("sparse");
        }
        Some(ask(command))
    });
    let sandbox = Sandbox::start(Options { doctor: Some(doctor), ..Options::default() }).await;
    let client = sandbox.set.client().await;
    let folder = Folder::new("version-report");
    let (mongod, _) = binary(Version::Current);
    let executable = Path::new(env!("CARGO_BIN_EXE_pbmbox"));
    let programs = Programs::of(executable, folder.path().join("bin"), sandbox.set.uri()).expect("links");
    let wanted = |name: &str| name == "all kinds of data, s2" || name == "an export";
    let subject =
        Subject { client: &client, programs: &programs, mongod: &mongod, folder: folder.path(), wanted: &wanted };
    let report = examine(subject).await.expect("a report");
    assert!(!report.is_good());
    let found: Vec<_> = report.checks.iter().map(|it| (it.check.as_str(), it.verdict)).collect();
    assert_eq!(found, [("all kinds of data, s2", Verdict::Differed), ("an export", Verdict::Passed)]);
    assert_eq!(report.checks[0].details, ["kinds.plain: index sparse index: sparse is nothing in place of true"]);
    let text = serde_json::to_value(&report).expect("JSON");
    assert_eq!(text["server"]["version"], "8.0.4");
    assert_eq!(text["server"]["feature_compatibility_version"], "8.0");
    let not_here = text["not_on_this_server"].as_array().expect("a list");
    assert_eq!(not_here.len(), 1, "{not_here:?}");
    assert!(not_here[0].as_str().expect("text").starts_with("column index: "), "{not_here:?}");
}
