//! Nothing but the result; and the configuration as it takes effect.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn quiet_calls_leave_results_and_errors() {
    let sandbox = Sandbox::start(Options::default()).await;
    let loud = sandbox.pbm(&["backup", "--wait"]).ok();
    assert!(loud.stderr.contains("Starting backup") && loud.stdout.contains("is complete"), "{loud:?}");
    for args in [&["backup", "--wait", "-q"][..], &["--quiet", "config", "--force-resync", "-w"], &["-q", "profile"]] {
        let quiet = sandbox.pbm(args).ok();
        assert_eq!(quiet.stderr, "", "{args:?}");
        assert!(!quiet.stdout.is_empty(), "{args:?}");
    }
    let json = sandbox.pbm(&["backup", "--wait", "-q", "-o", "json"]).ok();
    assert!(json.json()["name"].is_string() && json.stderr.is_empty(), "{json:?}");
    let wrong = sandbox.pbm(&["-q", "describe-backup", "nosuch"]).failed();
    assert!(wrong.stderr.starts_with("Error: there is no backup named nosuch\nHint: "), "{wrong:?}");
    assert_eq!((wrong.status.code(), wrong.stdout.as_str()), (Some(5), ""));

    // Every default, and what is set; the plain form stays as it is.
    sandbox
        .pbm(&["config", "--set", "restore.batchSize=50", "--set", "storage.s3.credentials.session-token=hunter2"])
        .ok();
    let plain = sandbox.pbm(&["config", "-o", "json"]).ok().json();
    assert_eq!(plain["restore"], json!({ "batchSize": 50 }));
    let all = sandbox.pbm(&["config", "--effective", "-o", "json"]).ok().json();
    assert_eq!((&all["restore"]["batchSize"], &all["restore"]["numInsertionWorkers"]), (&json!(50), &json!(4)));
    assert_eq!((&all["pitr"]["oplogSpanMin"], &all["backup"]["compression"]), (&json!(10), &json!("s2")));
    assert_eq!(all["storage"]["s3"]["credentials"], json!({ "session-token": "***" }));
    let text = sandbox.pbm(&["config", "--effective"]).ok().stdout;
    assert!(text.contains("  batchSize: 50\n") && text.contains("  numInsertionWorkers: 4  # default\n"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let unset = sandbox.pbm(&["config", "backup.limitUpload"]).ok().stdout;
    assert_eq!(unset, "[backup.limitUpload=]\n");
}
