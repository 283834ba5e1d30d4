//! Faults in a sharded cluster of three nodes each. Whatever is lost in mid-backup: the operation ends in a clear state
//! with a reason, on all replica sets, the balancer is on again, nothing is left, and the next backup works.

use super::{SPREAD, assert_same, contents, fill};
use crate::faults::rig::{End, Hold, Rig};
use crate::support::cluster::{Options, ReplicaSet};
use crate::support::cut::Tunnels;
use crate::support::programs::{Agent, Deployment, Output};
use crate::support::sharded::{ShardedCluster, ShardedSandbox, TWO_SHARDS};
use crate::support::wait;
use mongodb::bson::{Document, doc};
use std::process::Child;
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
/// On both shards.
const NS: &str = SPREAD[0].ns;
/// After a fault everything is over within this.
const OVER: Duration = Duration::from_secs(60);

/// A backup in the middle of its work: both shards stand still in their dumps.
struct Backup {
    name: String,
    command_line: Child,
    holds: Vec<Hold>,
}

impl Backup {
    /// Lets the dumps go on.
    async fn release(&mut self) {
        for hold in self.holds.drain(..) {
            hold.release().await;
        }
    }
}

impl Rig<ShardedCluster> {
    async fn sharded() -> Self {
        let options = Options { members: MEMBERS, ..Options::default() };
        let mut rig = Self::bare(ShardedSandbox::sharded(options, TWO_SHARDS).await).await;
        rig.limit = OVER;
        fill(&rig.sandbox.set).await;
        rig
    }

    fn set_of(&self, rs: &str) -> &ReplicaSet {
        self.sandbox.set.sets().into_iter().find(|set| set.options().name == rs).expect("a replica set of this name")
    }

    fn set_mut(&mut self, rs: &str) -> &mut ReplicaSet {
        let cluster = &mut self.sandbox.set;
        let sets = std::iter::once(&mut cluster.config).chain(cluster.shards.iter_mut().map(|shard| &mut shard.set));
        sets.into_iter().find(|set| set.options().name == rs).expect("a replica set of this name")
    }

    /// The number of the agent on the set's node `n`.
    fn agent_of(&self, rs: &str, n: usize) -> usize {
        let sets = self.sandbox.set.sets();
        sets.iter().position(|set| set.options().name == rs).expect("a replica set of this name") * MEMBERS + n
    }

    /// The node of the set whose agent works, and the agent's number.
    async fn working(&self, rs: &str) -> (usize, usize) {
        let n = self.worker_of(self.set_of(rs)).await;
        (n, self.agent_of(rs, n))
    }

    async fn begin(&self) -> Backup {
        let mut holds = Vec::new();
        for shard in &self.sandbox.set.shards {
            holds.push(Hold::reading_in(&shard.set, NS).await);
        }
        let command_line = self.sandbox.pbm_spawn(&["backup", "--wait"]);
        for hold in &holds {
            hold.entered().await;
        }
        let name = self.reaches("pbmBackups", "running").await;
        assert_eq!(self.balancer().await.as_deref(), Some("off"));
        Backup { name, command_line, holds }
    }

    async fn balancer(&self) -> Option<String> {
        let status = self.admin().run_command(doc! { "_configsvrBalancerStatus": 1 }).await.ok()?;
        status.get_str("mode").ok().map(str::to_owned)
    }

    async fn document(&self, name: &str) -> Document {
        let backups = self.admin().collection::<Document>("pbmBackups");
        backups.find_one(doc! { "name": name }).await.expect("read").expect("the backup")
    }

    /// Waits until nothing is left to do for the backup.
    async fn is_over(&self, what: &str, name: &str, since: Instant) -> End {
        let end = self.settles("pbmBackups", name, since).await;
        wait::until("the balancer", OVER.saturating_sub(since.elapsed()), async || {
            self.balancer().await.filter(|mode| mode == "full")
        })
        .await;
        wait::until("the last remark to go", OVER.saturating_sub(since.elapsed()), async || {
            let found = self.document(name).await;
            (!found.contains_key("cleanup_due") && !found.contains_key("balancer_due")).then_some(())
        })
        .await;
        eprintln!("{what}: over after {:.1} s: {end:?}", since.elapsed().as_secs_f64());
        end
    }

    /// The backup fails everywhere while both dumps still stand still, and the next one works.
    async fn fails(&self, what: &str, mut backup: Backup, since: Instant) -> (End, Output) {
        let said = self.ended(backup.command_line, since, OVER).await.failed();
        let end = self.is_over(what, &backup.name, since).await;
        assert_eq!(end.status, "error", "{what}: {end:?}");
        self.is_not_offered(&backup.name);
        for hold in backup.holds.drain(..) {
            hold.release().await;
        }
        (end, said)
    }

    async fn restart_agent_of(&mut self, rs: &str, n: usize) {
        let (number, uri) = (self.agent_of(rs, n), self.set_of(rs).uri_of(n));
        self.sandbox.agents[number].kill();
        self.sandbox.agents[number] = Agent::start(&self.sandbox.programs, &uri);
        self.agent_beats(&self.set_of(rs).address_of(n)).await;
    }

    /// A killed server comes back and takes part again.
    async fn restart_server(&mut self, rs: &str, n: usize) {
        self.set_mut(rs).restart(n);
        let admin = self.set_of(rs).client_of(n).await.database("admin");
        wait::until("the server to take part", OVER, async || {
            let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
            let is = |role| hello.get_bool(role).unwrap_or(false);
            (is("secondary") || is("isWritablePrimary")).then_some(())
        })
        .await;
        self.agent_beats(&self.set_of(rs).address_of(n)).await;
    }

    /// A server is killed and the dumps go on at once. The backup may survive that; gives its name if it did.
    async fn server_killed(&mut self, what: &str, rs: &str, n: usize, mut backup: Backup) -> Option<String> {
        self.set_mut(rs).kill(n);
        let since = Instant::now();
        backup.release().await;
        let said = self.ended(backup.command_line, since, OVER).await;
        let end = self.is_over(what, &backup.name, since).await;
        assert_eq!(said.status.success(), end.status == "done", "{what}: {end:?} {}{}", said.stdout, said.stderr);
        let survived = end.status == "done";
        if !survived {
            assert!(end.error.contains(rs), "{what}: the reason names no replica set: {end:?}");
            assert!(said.stderr.contains(&end.error), "{what}: the reason is not shown: {}", said.stderr);
            self.is_not_offered(&backup.name);
        }
        self.next_backup_works();
        self.restart_server(rs, n).await;
        survived.then_some(backup.name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn working_agents_are_killed_in_mid_backup() {
    let mut rig = Rig::sharded().await;
    for (what, rs) in [("a shard's agent killed", "rs1"), ("the leader's agent killed", "cfgrs")] {
        let backup = rig.begin().await;
        let (node, agent) = rig.working(rs).await;
        rig.sandbox.agents[agent].kill();
        let (end, said) = rig.fails(what, backup, Instant::now()).await;
        assert!(end.error.contains("lost"), "{what}: {end:?}");
        let named = end.error.contains(rs) || end.error.contains("the leading agent");
        assert!(named, "{what}: the reason names nobody: {end:?}");
        assert!(said.stderr.contains("lost"), "{what}: {}", said.stderr);
        rig.next_backup_works();
        rig.restart_agent_of(rs, node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_killed_in_mid_backup() {
    let mut rig = Rig::sharded().await;
    let expected = contents(&rig.sandbox.set).await;
    let mut whole = Vec::new();

    let backup = rig.begin().await;
    let primary = rig.set_of("rs1").primary().await;
    whole.extend(rig.server_killed("a shard's primary killed", "rs1", primary, backup).await);

    let backup = rig.begin().await;
    let (read, _) = rig.working("rs2").await;
    let lost = rig.server_killed("the server that is read killed", "rs2", read, backup).await;
    assert_eq!(lost, None, "nobody could read it any more");

    let backup = rig.begin().await;
    let primary = rig.sandbox.set.config.primary().await;
    whole.extend(rig.server_killed("the config servers' primary killed", "cfgrs", primary, backup).await);

    whole.push(rig.next_backup_works());
    for name in whole {
        rig.sandbox.set.router().await.delete(NS, 3).await;
        rig.pbm(&["restore", &name, "--wait", "-y"]).ok();
        assert_same(&rig.sandbox.set, &expected, &contents(&rig.sandbox.set).await);
    }
}

/// The agent sleeps until it counts as lost, and wakes in the middle of the next backup, with what it had asked its
/// server for in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wakes_up_too_late_changes_nothing() {
    let rig = Rig::sharded().await;
    let mut first = rig.begin().await;
    let (_, sleeper) = rig.working("rs1").await;
    rig.sandbox.agents[sleeper].signal("STOP");
    let since = Instant::now();
    first.release().await;
    let name = first.name.clone();
    let (end, _) = rig.fails("a shard's agent asleep", first, since).await;
    assert!(end.error.contains("lost") && end.error.contains("rs1"), "{end:?}");
    let before = rig.document(&name).await;

    let mut next = rig.begin().await;
    let (_, other) = rig.working("rs1").await;
    assert_ne!(other, sleeper, "an agent that sleeps was asked to work");
    rig.sandbox.agents[sleeper].signal("CONT");
    let since = Instant::now();
    wait::until("the agent to end what it did", OVER, async || {
        let log = rig.sandbox.agents[sleeper].log();
        log.contains(&format!(" backup {name}: ")).then_some(())
    })
    .await;
    let (_, still) = rig.working("rs1").await;
    assert_eq!(still, other, "the agent that woke up took the lock back");
    next.release().await;
    rig.ended(next.command_line, since, OVER).await.ok();
    assert_eq!(rig.is_over("the backup meanwhile", &next.name, since).await.status, "done");

    rig.is_over("what the agent left when it woke up", &name, since).await;
    let after = rig.document(&name).await;
    for field in ["status", "error", "conditions", "replsets"] {
        assert_eq!(before.get(field), after.get(field), "{field} was changed by an agent that was late");
    }
    rig.is_not_offered(&name);
    rig.next_backup_works();
}

/// The agent still has its own server and the storage; only the config servers are out of its reach.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_cut_off_from_the_config_servers() {
    let mut rig = Rig::sharded().await;
    let addresses = |set: &ReplicaSet| (0..MEMBERS).map(|n| set.address_of(n)).collect::<Vec<_>>();
    let tunnels = Tunnels::open(&addresses(rig.set_of("rs1")), &addresses(rig.set_of("cfgrs")));
    // The first to be asked are the secondaries: of these, only the one in the tunnel is alive.
    let primary = rig.set_of("rs1").primary().await;
    let (cut_off, dead) = ((primary + 1) % MEMBERS, (primary + 2) % MEMBERS);
    let (agent, other) = (rig.agent_of("rs1", cut_off), rig.agent_of("rs1", dead));
    rig.sandbox.agents[other].kill();
    rig.sandbox.agents[agent].kill();
    let uri = rig.set_of("rs1").uri_of(cut_off);
    rig.sandbox.agents[agent] = Agent::start_behind(&tunnels, &rig.sandbox.programs, &uri);
    let address = rig.set_of("rs1").address_of(cut_off);
    rig.agent_beats(&address).await;

    let backup = rig.begin().await;
    assert_eq!(rig.working("rs1").await, (cut_off, agent));
    tunnels.cut();
    let since = Instant::now();
    let name = backup.name.clone();
    let (end, _) = rig.fails("a shard's agent cut off", backup, since).await;
    assert!(end.error.contains("lost") && end.error.contains("rs1"), "{end:?}");
    wait::until("the agent to give up by itself", OVER, async || {
        rig.sandbox.agents[agent].log().contains("could not be refreshed").then_some(())
    })
    .await;
    rig.next_backup_works();
    let before = rig.document(&name).await;

    tunnels.mend();
    rig.agent_beats(&address).await;
    wait::until("the agent to end what it did", OVER, async || {
        rig.sandbox.agents[agent].log().contains(&format!(" backup {name}: ")).then_some(())
    })
    .await;
    rig.is_over("what was left", &name, Instant::now()).await;
    assert_eq!(rig.document(&name).await.get("replsets"), before.get("replsets"));
    rig.next_backup_works();
}
