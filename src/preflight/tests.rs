use super::facts::{Answer, NodeFacts, Oplog, ReplsetFacts, Unfinished};
use super::*;
use crate::model::member::MemberState::{self, Arbiter, Primary, Secondary};
use crate::model::{
    agent::{Space, SubsysStatus, Trial},
    config::{Config, PitrConf},
    lock::{Lock, LockHeader},
    names::PBM_VERSION,
    pitr::{PitrReport, state},
};
use crate::mongo::{admin::Version, login::Login};
use bson::Timestamp;

const NOW: u32 = 100_000;

fn at(time: u32) -> Timestamp {
    Timestamp { time, increment: 1 }
}

fn answer(oplog: Oplog) -> Answer {
    let version = Version { server: "6.0.5".into(), fcv: "6.0".into(), psmdb: None };
    let login = grants::tests::with(&["readWrite", "backup", "clusterMonitor", "restore"], true);
    Answer { clock_ms: 3, round_ms: 1, version: Ok(version), login: Ok(login), locked: false, oplog: Ok(oplog) }
}

fn node(host: &str, state: MemberState, oplog: Oplog) -> NodeFacts {
    let state_str = if state == Primary { "PRIMARY" } else { "SECONDARY" }.to_owned();
    NodeFacts { host: host.into(), state: Some(state), state_str, answer: Ok(answer(oplog)) }
}

/// A replica set with one member, whose oplog this is.
pub(super) fn set_of(oplog: Oplog) -> ReplsetFacts {
    ReplsetFacts { name: "a".into(), nodes: vec![node("h:1", Primary, oplog)], no_majority: None }
}

fn agent(rs: &str, n: &str, s: MemberState) -> AgentStat {
    let own = "0.1.0".to_owned();
    let rules = AgentStat::RULES;
    AgentStat { v: PBM_VERSION.into(), own, rules, hb: at(NOW - 3), ..AgentStat::healthy(rs, n, s) }
}

/// Two replica sets of two members, nothing to complain about.
fn healthy() -> Facts {
    let oplog = Oplog { oldest: at(1), newest: at(NOW), size: 100, max: 100 };
    let mut facts = Facts::default();
    for rs in ["a", "b"] {
        let nodes = vec![node("h:1", Primary, oplog), node("h:2", Secondary, oplog)];
        facts.replsets.push(ReplsetFacts { name: rs.into(), nodes, no_majority: None });
        facts.control.agents.extend([agent(rs, "h:1", Primary), agent(rs, "h:2", Secondary)]);
    }
    facts.control.now = Some(at(NOW));
    facts.control.config = Some(Config::default());
    facts
}

fn lock(kind: &str, rs: &str, hb: u32) -> Lock {
    let header =
        LockHeader { kind: kind.into(), replset: rs.into(), node: "h:1".into(), opid: "x".into(), epoch: None };
    Lock { header, hb: at(hb) }
}

/// The first finding that is not fine, as `verdict check subject: detail`.
#[track_caller]
fn first(facts: &Facts) -> String {
    let found = judge(facts).into_iter().find(|it| it.verdict > Verdict::Ok).expect("something to complain about");
    assert!(found.next.is_some(), "no next step: {found:?}");
    format!("{:?} {} {}: {}", found.verdict, found.check.name(), found.subject, found.detail)
}

#[test]
fn a_healthy_cluster_has_only_good_findings() {
    let findings = judge(&healthy());
    assert!(findings.iter().all(|it| it.verdict == Verdict::Ok && it.next.is_none()), "{findings:#?}");
    let checks: std::collections::HashSet<Check> = findings.iter().map(|it| it.check).collect();
    assert_eq!(checks.len(), 11, "no users to complain of, no room that is known: {checks:?}");
    assert_eq!(judge_before(&healthy(), Operation::Backup), []);
}

#[test]
fn each_fault_is_found_where_it_is() {
    type Spoil = fn(&mut Facts);
    let cases: &[(Spoil, &str)] = &[
        (|it| it.control.config = None, "Failure configuration cluster: there is none"),
        (
            |it| it.replsets[0].nodes[1].answer = Err("refused".into()),
            "Warning connection a/h:2: refused; its agent reaches",
        ),
        (
            |it| {
                it.replsets[0].nodes[1].answer = Err("refused".into());
                it.control.agents.retain(|agent| agent.n != "h:2");
            },
            "Failure connection a/h:2: refused",
        ),
        (|it| it.replsets[1].nodes[0].state = Some(Secondary), "Failure connection b: it has no primary"),
        (|it| it.unanswered.push("denied".into()), "Failure connection cluster: questions without an answer: denied"),
        (
            |it| it.replsets[0].nodes[0].answer.as_mut().expect("one").login = Ok(Login::default()),
            "Warning authorization a: nobody has to log in",
        ),
        (
            |it| {
                let answer = it.replsets[0].nodes[0].answer.as_mut().expect("one");
                (answer.login, answer.oplog) = (Ok(Login::default()), Err("denied".into()));
            },
            "Failure privileges a: nobody is logged in",
        ),
        (
            |it| {
                it.replsets[1].nodes[0].answer.as_mut().expect("one").login = Ok(grants::tests::with(&["root"], false))
            },
            "Failure privileges b: user u@admin lacks anyAction on anyResource",
        ),
        (
            |it| {
                it.replsets[1].nodes[0].answer.as_mut().expect("one").login = Ok(grants::tests::with(&["backup"], true))
            },
            "Warning privileges b: user u@admin lacks role readWrite on admin, role clusterMonitor, role restore; anyAction",
        ),
        (
            |it| {
                it.shards = 2;
                let answer = it.replsets[1].nodes[0].answer.as_mut().expect("one");
                let roles = ["readWrite", "backup", "clusterMonitor", "restore"];
                answer.login = Ok(grants::tests::with(&roles, false));
                for node in it.replsets.iter_mut().flat_map(|set| &mut set.nodes) {
                    let version = Version { server: "8.0.4".into(), fcv: "8.0".into(), psmdb: None };
                    node.answer.as_mut().expect("one").version = Ok(version);
                }
            },
            "Failure privileges b: user u@admin lacks role directShardOperations, anyAction on anyResource",
        ),
        (|it| it.config_shard = true, "Failure configuration cluster: the config servers are a shard, too"),
        (
            |it| {
                let version = Version { server: "8.2.0".into(), fcv: "8.2".into(), psmdb: None };
                it.replsets[1].nodes[0].answer.as_mut().expect("one").version = Ok(version);
            },
            "Warning server version cluster: MongoDB 8.2.0 (b/h:1) is newer than 8.0, the newest one",
        ),
        (
            |it| {
                let version = Version { server: "4.2.1".into(), fcv: "6.0".into(), psmdb: None };
                it.replsets[1].nodes[0].answer.as_mut().expect("one").version = Ok(version);
            },
            "Warning server version cluster: MongoDB 4.2.1 (b/h:1) is none",
        ),
        (
            |it| {
                let version = Version { server: "6.0.5".into(), fcv: "5.0".into(), psmdb: None };
                it.replsets[1].nodes[0].answer.as_mut().expect("one").version = Ok(version);
            },
            "Warning server version cluster: different feature compatibility versions: 5.0 on b; 6.0 on a, b",
        ),
        (|it| drop(it.control.agents.remove(1)), "Failure agent a/h:2: no pbm-agent runs here"),
        (|it| it.control.agents[1].hb = at(NOW - 31), "Failure agent a/h:2: its agent is lost: no heartbeat for 31 s"),
        (|it| it.control.agents[1].doubled = true, "Failure agent a/h:2: two agents"),
        (|it| it.control.agents[1].repl_lag = 21, "Warning agent a/h:2: not read for backups: it is 21 s behind"),
        (
            |it| it.control.agents[1].unfit = "it is locked".into(),
            "Warning agent a/h:2: not read for backups: it is locked",
        ),
        (
            |it| it.replsets[1].no_majority = Some("no majority: 1".into()),
            "Failure connection b: no majority: 1; backups",
        ),
        (
            |it| it.control.agents[1].nodes = SubsysStatus::broken("gone"),
            "Failure agent a/h:2: its agent can't use the mongod: gone",
        ),
        (|it| it.control.agents[1].n = "other:2".into(), "Failure agent a/h:2: no pbm-agent runs here"),
        (|it| it.control.agents.push(agent("a", "h:9", Secondary)), "Warning agent a/h:9: an agent writes here"),
        (
            |it| it.control.agents[1].lacks = vec!["role restore".into()],
            "Failure privileges a/h:2: the user of its agent lacks",
        ),
        (
            |it| it.control.agents[3].v = "2.9.0".into(),
            "Warning agent version cluster: this pbm is 2.15.0, and there are agents of other versions: 2.9.0 on b/h:2",
        ),
        (|it| it.control.agents[3].stors = SubsysStatus::broken("denied"), "Failure storage b/h:2: denied"),
        (
            |it| it.control.agents[3].probe = Some(Trial { ok: false, e: "no deletes".into(), age: 0 }),
            "Failure storage b/h:2: no deletes",
        ),
        (
            |it| it.control.agents[3].space = Some(Space { free: 1 << 20, total: 1 << 30 }),
            "Failure free space b/h:2: 1 MiB of 1024 MiB",
        ),
        (
            |it| {
                it.control.newest_backup = Some((100 << 20, 5));
                it.control.agents[3].space = Some(Space { free: 110 << 20, total: 1 << 30 });
            },
            "Warning free space b/h:2: 110 MiB of 1024 MiB are free on the storage, and the newest backup has 100 MiB",
        ),
        (
            |it| it.replsets[0].nodes[0].answer.as_mut().expect("one").clock_ms = -6_000,
            "Warning clock a/h:1: its clock is 6 s behind",
        ),
        (
            |it| it.replsets[0].nodes[0].answer.as_mut().expect("one").clock_ms = 40_000,
            "Failure clock a/h:1: its clock is 39 s ahead of",
        ),
        (
            |it| {
                it.replsets
                    .iter_mut()
                    .flat_map(|set| &mut set.nodes)
                    .for_each(|node| node.answer.as_mut().expect("one").clock_ms = 9_000)
            },
            "Warning clock the host of this pbm: its clock is 9 s behind",
        ),
        (
            |it| it.control.agents[0].clock = Some(8_000),
            "Warning clock the host of the agent of a/h:1: its clock is 8 s ahead of",
        ),
        (
            |it| it.control.agents[3].clock = Some(-31_000),
            "Failure clock the host of the agent of b/h:2: its clock is 31 s behind",
        ),
        (|it| it.control.agents[2].own = "0.0.1".into(), "Warning agent version cluster: this pbm is of release"),
        (|it| it.control.ahead_secs = 31, "Failure clock cluster: the cluster time is 31 s ahead"),
        (
            |it| {
                it.replsets[1].nodes[1].answer.as_mut().expect("one").oplog =
                    Ok(Oplog { oldest: at(NOW - 60), newest: at(NOW), size: 9, max: 10 })
            },
            "Failure oplog b/h:2: it holds 60 s, less than a slice",
        ),
        (
            |it| it.control.locks.push(lock("backup", "b", NOW - 50)),
            "Failure operations b/h:1: the lock of a backup has had no sign of life for 50 s",
        ),
        (
            |it| {
                it.control.unfinished.push(Unfinished {
                    kind: "backup",
                    name: "n".into(),
                    opid: "y".into(),
                    hb: at(NOW - 50),
                })
            },
            "Failure operations backup n: it has not ended",
        ),
    ];
    for (spoil, wanted) in cases {
        let mut facts = healthy();
        spoil(&mut facts);
        let got = first(&facts);
        assert!(got.starts_with(wanted), "wanted {wanted}\ngot    {got}");
    }
}

#[test]
fn arbiters_and_what_runs_are_fine() {
    let mut facts = healthy();
    let arbiter =
        NodeFacts { state: Some(Arbiter), answer: Err("it is not asked".into()), ..facts.replsets[0].nodes[1].clone() };
    facts.replsets[0].nodes.push(NodeFacts { host: "h:3".into(), ..arbiter });
    facts.control.locks.push(lock("backup", "b", NOW - 5));
    // Its own heartbeat is the leader's, who may be slow; the lock lives.
    facts.control.unfinished.push(Unfinished { kind: "backup", name: "n".into(), opid: "x".into(), hb: at(NOW - 50) });
    let findings = judge(&facts);
    assert!(findings.iter().all(|it| it.verdict == Verdict::Ok), "{findings:#?}");
    assert!(findings.iter().any(|it| it.subject == "backup n" && it.detail == "it is running"));
}

#[test]
fn slicing_is_looked_at_when_it_is_on() {
    let mut facts = healthy();
    facts.control.config =
        Some(Config { pitr: Some(PitrConf { enabled: true, ..PitrConf::default() }), ..Config::default() });
    assert!(first(&facts).starts_with("Failure slicing a: nobody saves its oplog"));
    let switched_on = |facts: &mut Facts, ago| facts.control.config.as_mut().expect("one").epoch = Some(at(NOW - ago));
    switched_on(&mut facts, 30);
    assert!(first(&facts).starts_with("Warning slicing a: nobody saves its oplog yet"));
    switched_on(&mut facts, 31);
    assert!(first(&facts).starts_with("Failure slicing a: nobody saves its oplog"));
    facts.control.slicing_errors = vec![("a".into(), "h:1: no base".into())];
    assert!(first(&facts).starts_with("Failure slicing a: nobody saves its oplog: h:1: no base"));
    facts.control.locks = vec![lock("restore", "b", NOW)];
    assert!(first(&facts).starts_with("Failure slicing a: nobody saves its oplog"), "the lock of another replica set");
    facts.control.locks = vec![lock("restore", "a", NOW), lock("restore", "b", NOW)];
    assert!(judge(&facts).iter().all(|it| it.verdict == Verdict::Ok), "it pauses");
    facts.control.locks.clear();
    facts.control.slicers = vec![lock("pitr", "a", NOW), lock("pitr", "b", NOW)];
    assert!(first(&facts).starts_with("Warning slicing a: h:1 saves its oplog; it failed before"));
    facts.control.slicing_errors.clear();
    assert!(judge(&facts).iter().all(|it| it.verdict == Verdict::Ok));
    let report =
        PitrReport { name: "b".into(), node: "h:1".into(), status: state::ERROR.into(), error: Some("no room".into()) };
    let meta = bson::deserialize_from_document(bson::doc! { "start_ts": 1_i64 }).expect("a document");
    facts.control.pitr = Some(crate::model::pitr::PitrMeta { replsets: vec![report], ..meta });
    assert!(first(&facts).starts_with("Failure slicing b: h:1 can't save its oplog: no room"));
}

#[test]
fn a_mix_of_agents_is_told_while_slicing_is_on() {
    let mut facts = healthy();
    facts.control.config =
        Some(Config { pitr: Some(PitrConf { enabled: true, ..PitrConf::default() }), ..Config::default() });
    facts.control.slicers = vec![lock("pitr", "a", NOW), lock("pitr", "b", NOW)];
    facts.control.leader_rs = "a".into();
    // On the secondary of another replica set, then on the leader's primary, then with nobody to lead.
    facts.control.agents[3].own.clear();
    assert!(judge(&facts).iter().all(|it| it.check != Check::Slicing || it.verdict == Verdict::Ok));
    assert!(judge(&facts).iter().any(|it| it.detail.contains("h:1 names who slices")), "{:?}", judge(&facts));
    facts.control.agents[0].own.clear();
    assert!(first(&facts).contains("the one on h:1 leads"), "{}", first(&facts));
    facts.control.agents.retain(|agent| agent.rs == "b");
    assert!(
        judge(&facts).iter().any(|it| it.verdict == Verdict::Failure && it.detail.contains("nobody names slicers"))
    );
}

#[test]
fn only_what_stops_every_agent_is_an_obstacle() {
    let stopped = |facts: &Facts, operation| {
        let all = obstacles(facts, &judge_before(facts, operation), operation);
        all.into_iter().map(|it| it.subject).collect::<Vec<_>>()
    };
    let mut facts = healthy();
    facts.control.agents[0].lacks = vec!["role restore".into()];
    facts.control.agents[1].lacks = vec!["role backup".into()];
    assert_eq!(stopped(&facts, Operation::Backup), [""; 0], "a backup restores nothing");
    assert_eq!(stopped(&facts, Operation::Restore), ["a/h:1"]);
    assert_eq!(stopped(&facts, Operation::Replay), ["a/h:1"]);
    facts.control.agents[0].lacks = vec!["role directShardOperations".into()];
    assert_eq!(stopped(&facts, Operation::Backup), ["a/h:1", "a/h:2"], "shards refuse it");
    facts.control.agents[0].lacks = vec!["role clusterMonitor".into()];
    assert_eq!(stopped(&facts, Operation::Backup), ["a/h:1", "a/h:2"]);
    facts.control.agents[1].lacks.clear();
    assert_eq!(stopped(&facts, Operation::Backup), [""; 0], "the secondary can");
    facts.control.agents[1].space = Some(Space { free: 0, total: 1 });
    assert_eq!(stopped(&facts, Operation::Backup), ["a/h:1", "a/h:2"]);
    assert_eq!(stopped(&facts, Operation::ProfileBackup), [""; 0], "it goes elsewhere");
    facts.control.agents[1].space = None;
    facts.control.agents[1].stors = SubsysStatus::broken("denied");
    assert_eq!(stopped(&facts, Operation::Backup), ["a/h:1"], "the other one is not fit");
    facts.control.agents[0].lacks.clear();
    for node in facts.replsets.iter_mut().flat_map(|set| &mut set.nodes) {
        node.answer = Err("a firewall".into());
    }
    for operation in [Operation::Backup, Operation::Restore, Operation::Replay] {
        assert_eq!(stopped(&facts, operation), [""; 0], "agents work, not this host");
    }
    let told = judge_before(&facts, Operation::Restore);
    assert!(told.iter().any(|it| it.check == Check::Connection && it.verdict == Verdict::Warning), "{told:?}");
}
