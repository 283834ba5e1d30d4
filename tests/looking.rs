//! What the commands that only look print, in every state of a cluster: texts as snapshots, JSON also key by key.
//!
//! The states are written into the control collections, so no agent and no operation is needed.

pub mod shapes;
mod states;

use crate::support::cluster::{Options, ReplicaSet};
use crate::support::normalize::Names;
use crate::support::programs::{Deployment, Output, Programs};
use crate::support::sharded::{ShardedCluster, TWO_SHARDS};
use crate::support::snapshot;
use shapes::Shape;
use states::Seeded;

/// Calls of the command line on one deployment.
struct Looking<'a, D> {
    programs: Programs,
    deployment: &'a D,
    names: Names,
}

impl<'a, D: Deployment> Looking<'a, D> {
    fn at(deployment: &'a D) -> Self {
        let hosts = deployment.sets().into_iter().map(|set| (set.address_of(0), format!("{}:1", set.options().name)));
        Self { programs: Programs::new(), deployment, names: Names(hosts.collect()) }
    }

    fn pbm(&self, args: &[&str]) -> Output {
        let mut command = self.programs.command("pbm");
        let output =
            command.env("PBM_MONGODB_URI", self.deployment.leader().uri()).args(args).output().expect("run pbm");
        Output {
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
            status: output.status,
        }
    }

    /// Every looking command in both forms, as one text; the JSON has the shape that is given.
    fn all(&self, seeded: &Seeded) -> String {
        let mut calls: Vec<(Vec<&str>, Shape)> = vec![
            (vec!["status"], shapes::status()),
            (vec!["status", "-p", "-s", "cluster"], shapes::status()),
            (vec!["status", "--check", "-s", "running"], shapes::status()),
            (
                vec!["status", "-s", "backups", "--profile", "main", "--replset-remapping", "rs0=another"],
                shapes::status(),
            ),
            (vec!["list"], shapes::listing()),
            (vec!["list", "--full", "--unbacked", "--size", "1"], shapes::listing()),
            (vec!["list", "--restore"], shapes::restores()),
            (vec!["config"], shapes::config()),
            (vec!["config", "storage.type"], shapes::config_key()),
            (vec!["profile", "list"], shapes::profiles()),
            (vec!["profile", "show", "archive"], shapes::profile()),
            (vec!["logs", "-t", "0", "-s", "D", "-x"], shapes::logs()),
            (vec!["logs", "-e", "backup", "--timezone", "Asia/Tokyo"], shapes::logs()),
            (vec!["version"], shapes::version()),
        ];
        calls.extend(seeded.backups.iter().map(|name| (vec!["describe-backup", *name], shapes::backup())));
        calls.extend(seeded.restores.iter().map(|name| (vec!["describe-restore", *name], shapes::restore())));
        let mut out = String::new();
        let mut wrong = Vec::new();
        for (args, shape) in calls {
            let text = self.pbm(&args);
            // A program's version and platform are not what is tested.
            if args != ["version"] {
                out.push_str(&self.show(&args, &text));
            }
            let args = [&args[..], &["-o", "json-pretty"]].concat();
            let json = self.pbm(&args);
            assert_eq!(text.status.code(), json.status.code(), "{args:?}");
            assert_eq!(json.stderr, "", "{args:?}");
            let shape = if json.stdout.contains("\"Error\"") { shapes::error() } else { shape };
            wrong.extend(shapes::check(&shape, &json.json()).into_iter().map(|why| format!("{}{why}", args.join(" "))));
            if args[0] != "version" {
                out.push_str(&self.show(&args, &json));
            }
        }
        assert_eq!(wrong, [""; 0]);
        out
    }

    fn show(&self, args: &[&str], output: &Output) -> String {
        let mut said = format!("$ pbm {}\n{}", args.join(" "), output.stdout);
        if !output.stderr.is_empty() {
            said.push_str(&format!("[stderr]\n{}", output.stderr));
        }
        if !output.status.success() {
            said.push_str(&format!("[exit code {}]\n", output.status.code().expect("an exit code")));
        }
        self.names.hide(&said) + "\n"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_replica_set() {
    let set = ReplicaSet::start(Options::default()).await;
    let looking = Looking::at(&set);
    let unknown = looking.pbm(&["status", "-o", "json"]);
    assert_eq!(shapes::check(&shapes::error(), &unknown.failed().json()), [""; 0]);
    snapshot::check("looking/empty.txt", &looking.all(&states::empty(&set).await));
    snapshot::check("looking/healthy.txt", &looking.all(&states::healthy(&set).await));
    snapshot::check("looking/running.txt", &looking.all(&states::running(&set).await));
    snapshot::check("looking/failing.txt", &looking.all(&states::failing(&set).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_sharded_cluster() {
    let cluster = ShardedCluster::start(Options::default(), TWO_SHARDS).await;
    let looking = Looking::at(&cluster);
    snapshot::check("looking/sharded.txt", &looking.all(&states::healthy(&cluster).await));
    snapshot::check("looking/sharded-running.txt", &looking.all(&states::running(&cluster).await));
}
