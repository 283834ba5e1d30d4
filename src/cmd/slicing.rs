//! The point-in-time recovery section of `pbm status`: who slices the oplog, how far, and what is wrong.

use super::{context::Context, error::Result};
use crate::model::{
    config::Config,
    lock::{Lock, is_stale},
    pitr::{PitrMeta, SlicerState, state},
};
use crate::mongo;
use crate::pitr::beside::{self, Leader, Mix};
use serde::Serialize;

/// The original's keys, and ours after them.
#[derive(Debug, Default, Serialize)]
pub struct Pitr {
    pub conf: bool,
    pub run: bool,
    /// `null` when nobody slices, as in the original.
    pub nodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slicers: Vec<Slicer>,
    /// What a person may want to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How far a slicer is. Seconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Slicer {
    rs: String,
    node: String,
    /// Of writes that are not on the storage yet.
    lag: u32,
    /// That the whole oplog covers, and what of it is left before unsaved writes are lost.
    #[serde(rename = "oplogWindow")]
    window: u32,
    #[serde(rename = "oplogWindowLeft")]
    left: u32,
    #[serde(skip)]
    in_danger: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl Slicer {
    fn of(state: &SlicerState) -> Self {
        Self {
            rs: state.rs.clone(),
            node: state.node.clone(),
            lag: state.lag_secs(),
            window: state.window_secs(),
            left: state.window_left_secs(),
            in_danger: state.is_nearly_overtaken(),
            error: state.error.clone(),
        }
    }
}

/// Reads the section.
pub async fn read(cx: &Context, config: &Config, members: &[String]) -> Result<Pitr> {
    let conf = config.pitr.as_ref().is_some_and(|pitr| pitr.enabled);
    let now = cx.control.cluster_time().await?;
    let mut locks = cx.control.locks.slicers().await?;
    locks.retain(|lock| !is_stale(lock.hb, now));
    let meta = cx.control.pitr.get().await?;
    let mut logged = Vec::new();
    if let Some(epoch) = config.epoch.filter(|_| conf) {
        for rs in members {
            logged.extend(cx.control.logs.pitr_error(rs, epoch).await?);
        }
    }
    let logged = logged.into_iter().map(|line| format!("{}/{}: {}", line.rs, line.node, line.msg)).collect();
    let mut pitr = judge(conf, members, &locks, meta.as_ref(), logged);
    if conf {
        let mut agents = cx.control.agents.all().await?;
        agents.retain(|agent| !is_stale(agent.hb, now));
        pitr.tell_mix(&Mix::of(&agents, &mongo::hello(cx.control.client()).await?.set_name, ""));
    }
    Ok(pitr)
}

/// `locks` are those of living slicers, `logged` the errors that the log has.
fn judge(conf: bool, members: &[String], locks: &[Lock], meta: Option<&PitrMeta>, logged: Vec<String>) -> Pitr {
    let mut nodes: Vec<String> =
        locks.iter().map(|lock| format!("{}/{}", lock.header.replset, lock.header.node)).collect();
    nodes.sort();
    let sliced = |rs: &str| locks.iter().any(|lock| lock.header.replset == rs);
    let states = meta.map(|meta| meta.slicers.as_slice()).unwrap_or_default();
    let slicers: Vec<Slicer> = states.iter().filter(|state| sliced(&state.rs)).map(Slicer::of).collect();

    let mut errors = logged;
    if conf {
        let reports = meta.map(|meta| meta.replsets.as_slice()).unwrap_or_default();
        for report in reports.iter().filter(|report| report.status == state::ERROR) {
            let text = report.error.as_deref().unwrap_or("no reason is given");
            let told = errors.iter().any(|said| said.starts_with(&format!("{}/", report.name)) && said.contains(text));
            if !told {
                errors.push(format!("{}/{}: {text}", report.name, report.node));
            }
        }
    }
    let mut warnings = Vec::new();
    if conf {
        let missing: Vec<&str> = members.iter().map(String::as_str).filter(|rs| !sliced(rs)).collect();
        if missing.len() == members.len() {
            warnings.push(
                "no agent slices the oplog: times after the newest backup can't be restored, unless they are saved already"
                    .to_owned(),
            );
        } else if !missing.is_empty() {
            warnings.push(format!(
                "no agent slices the oplog of {}: times that only the other replica sets save can't be restored",
                missing.join(", ")
            ));
        }
    }
    for slicer in slicers.iter().filter(|slicer| slicer.in_danger) {
        warnings.push(format!(
            "the oplog of {} is nearly used up: writes that are not saved yet are lost in {} s ({} s are not saved, the oplog holds {} s); \
             make the oplog larger (replSetResizeOplog) or the storage faster",
            slicer.rs, slicer.left, slicer.lag, slicer.window
        ));
    }
    let run = !nodes.is_empty();
    let error = (!errors.is_empty()).then(|| errors.join("; "));
    Pitr { conf, run, nodes: run.then_some(nodes), error, slicers, notes: Vec::new(), warnings }
}

impl Pitr {
    /// Says what agents of the original mean for slicing.
    fn tell_mix(&mut self, mix: &Mix) {
        let place = if mix.leader == Leader::Nobody { &mut self.warnings } else { &mut self.notes };
        place.extend(beside::meaning(mix));
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("  {}", if self.conf { "on" } else { "off" });
        for node in self.nodes.iter().flatten() {
            out.push_str(&format!("\n  slicing: {node}"));
            let state =
                self.slicers.iter().find(|it| node.strip_prefix(&it.rs).is_some_and(|rest| rest.starts_with('/')));
            if let Some(it) = state {
                out.push_str(&format!(
                    ", {} s not saved yet, {} s of {} s left in the oplog",
                    it.lag, it.left, it.window
                ));
                if !it.error.is_empty() {
                    out.push_str(&format!("; last attempt failed: {}", it.error));
                }
            }
        }
        if let Some(error) = &self.error {
            out.push_str(&format!("\n  error: {error}"));
        }
        for note in &self.notes {
            out.push_str(&format!("\n  {note}"));
        }
        for warning in &self.warnings {
            out.push_str(&format!("\n  WARNING: {warning}"));
        }
        out
    }

    /// What a person should look at.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let failed = self.slicers.iter().filter(|slicer| !slicer.error.is_empty());
        let failed = failed.map(|slicer| format!("the slicer of {} can't save: {}", slicer.rs, slicer.error));
        let error = self.error.iter().map(|error| format!("slicing failed: {error}"));
        self.warnings.iter().cloned().chain(error).chain(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{lock::LockHeader, pitr::PitrReport};
    use crate::pitr::beside::Rules;
    use bson::Timestamp;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn lock(rs: &str) -> Lock {
        let header = LockHeader {
            kind: "pitr".into(),
            replset: rs.into(),
            node: "h:1".into(),
            opid: String::new(),
            epoch: None,
        };
        Lock { header, hb: ts(1) }
    }

    fn meta(saved: u32, reports: Vec<PitrReport>) -> PitrMeta {
        let slicer = SlicerState {
            rs: "a".into(),
            node: "h:1".into(),
            saved: ts(saved),
            newest: ts(400),
            oldest: ts(100),
            rolling: true,
            error: String::new(),
            hb: ts(400),
        };
        let meta = bson::doc! { "start_ts": 1_i64 };
        let meta: PitrMeta = bson::deserialize_from_document(meta).expect("a document");
        PitrMeta { slicers: vec![slicer], replsets: reports, ..meta }
    }

    fn members() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    #[test]
    fn off_has_the_originals_keys_only() {
        let off = judge(false, &members(), &[], None, Vec::new());
        assert_eq!(serde_json::to_string(&off).expect("json"), r#"{"conf":false,"run":false,"nodes":null}"#);
    }

    #[test]
    fn replica_sets_that_nobody_slices_are_named() {
        let all = judge(true, &members(), &[], None, Vec::new());
        assert!(all.warnings[0].starts_with("no agent slices the oplog:"), "{all:?}");
        let some = judge(true, &members(), &[lock("a")], None, Vec::new());
        assert!(some.warnings[0].starts_with("no agent slices the oplog of b:"), "{some:?}");
        let none = judge(true, &members(), &[lock("b"), lock("a")], None, Vec::new());
        assert_eq!((none.problems().count(), none.run), (0, true), "{none:?}");
        assert_eq!(none.nodes.expect("nodes"), ["a/h:1", "b/h:1"]);
    }

    /// The oplog covers 300 s; less than 100 of them must not be left.
    #[test]
    fn a_window_that_closes_is_a_warning() {
        for (saved, warned) in [(390, false), (200, false), (199, true), (90, true)] {
            let pitr = judge(true, &members(), &[lock("a"), lock("b")], Some(&meta(saved, Vec::new())), Vec::new());
            assert_eq!(pitr.warnings.len(), usize::from(warned), "{saved}: {pitr:?}");
        }
        let dead = judge(false, &members(), &[], Some(&meta(90, Vec::new())), Vec::new());
        assert_eq!(dead.slicers, [], "what a dead slicer said is old");
    }

    #[test]
    fn a_mix_of_agents_is_told() {
        let mix = |leader| Mix { leader, rules: Rules::Named, originals: vec!["h:2".into()] };
        let mut pitr = judge(true, &members(), &[lock("a"), lock("b")], None, Vec::new());
        pitr.tell_mix(&Mix { originals: Vec::new(), ..mix(Leader::Nobody) });
        assert_eq!((pitr.notes.len(), pitr.problems().count()), (0, 0));
        pitr.tell_mix(&mix(Leader::Original("h:2".into())));
        assert!(pitr.text().contains("the one on h:2 leads"), "{pitr:?}");
        assert_eq!(pitr.problems().count(), 0, "a migration is no problem");
        pitr.tell_mix(&mix(Leader::Nobody));
        assert_eq!(pitr.problems().count(), 1);
    }

    #[test]
    fn errors_come_from_the_log_and_from_reports() {
        let report = |text: &str| PitrReport {
            name: "a".into(),
            node: "h:1".into(),
            status: state::ERROR.into(),
            error: Some(text.into()),
        };
        let meta = meta(390, vec![report("no room"), report("no backup")]);
        let pitr =
            judge(true, &members(), &[lock("a"), lock("b")], Some(&meta), vec!["a/h:1: upload: no room".to_owned()]);
        assert_eq!(pitr.error.as_deref(), Some("a/h:1: upload: no room; a/h:1: no backup"));
        assert_eq!(pitr.problems().count(), 1);
        let off = judge(false, &members(), &[], Some(&meta), Vec::new());
        assert_eq!(off.error, None);
    }
}
