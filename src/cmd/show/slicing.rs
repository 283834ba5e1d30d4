//! The point-in-time recovery section of `pbm status`: who slices the oplog, how far, and what is wrong.

use crate::cmd::io::{context::Context, error::Result};
use crate::model::{
    config::Config,
    lock::{Lock, is_stale},
    pitr::{BEGINS_WITHIN, PitrMeta, SlicerState, state},
    restore::RestoreMeta,
};
use crate::mongo;
use crate::pitr::beside::{self, Leader, Mix};
use crate::pitr::timeline::Gap;
use bson::Timestamp;
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
    /// Some replica sets are not sliced yet, which is normal at this point.
    #[serde(skip)]
    begins: bool,
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

/// For this many seconds after a restore, the gap that the restore made is not reported.
const RESTORED_JUST_NOW: u32 = 3600;

/// Restores, which end one timeline of the oplog and begin another.
#[derive(Debug, Default)]
pub struct Restores {
    /// Start and end of each restore; the end is open while the restore runs.
    spans: Vec<(i64, Option<i64>)>,
}

impl Restores {
    pub async fn read(cx: &Context) -> Result<Self> {
        let (all, now) = (cx.control.restores.readable().await?, cx.control.cluster_time().await?);
        let end = |it: &RestoreMeta| match it.status.is_final() {
            true => Some(it.last_transition_ts),
            // A restore whose agents give no sign of life is not running.
            false => is_stale(it.hb, now).then_some(i64::from(it.hb.time)),
        };
        Ok(Self { spans: all.iter().map(|it| (it.start_ts, end(it))).collect() })
    }

    /// Is the gap caused by a restore that is running or has just ended?
    #[must_use]
    pub fn just_made(&self, gap: &Gap, now: Timestamp) -> bool {
        let (from, to, now) = (i64::from(gap.from.time), i64::from(gap.to.time), i64::from(now.time));
        self.spans.iter().any(|(start, end)| {
            let recent = end.is_none_or(|end| now - end <= i64::from(RESTORED_JUST_NOW));
            recent && *start <= to && end.is_none_or(|end| end >= from)
        })
    }

    /// Is a restore running, or did one end so recently that slicing may not have begun again?
    fn hold_slicing(&self, now: Timestamp) -> bool {
        let within = |end: i64| i64::from(now.time) - end <= i64::from(BEGINS_WITHIN);
        self.spans.iter().any(|(_, end)| end.is_none_or(within))
    }
}

/// Reads the section.
pub async fn read(cx: &Context, config: &Config, members: &[String]) -> Result<Pitr> {
    let conf = config.pitr_is_on();
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
    let switched_on = config.epoch.is_some_and(|epoch| now.time.saturating_sub(epoch.time) <= BEGINS_WITHIN);
    let busy = cx.control.locks.all().await?.iter().any(|lock| lock.pauses_slicing(now));
    let patience = switched_on || busy || (conf && Restores::read(cx).await?.hold_slicing(now));
    let logged = logged.into_iter().map(|line| format!("{}/{}: {}", line.rs, line.node, line.msg)).collect();
    let mut pitr = judge(conf, members, &locks, meta.as_ref(), logged, patience);
    if conf {
        let agents = cx.control.agents.living(now).await?;
        pitr.tell_mix(&Mix::of(&agents, &mongo::hello(cx.control.client()).await?.set_name, ""));
    }
    Ok(pitr)
}

/// `locks` are the locks of living slicers, `logged` the errors from the log. With `patience` a missing slicer is no reason
/// for a warning yet.
fn judge(
    conf: bool,
    members: &[String],
    locks: &[Lock],
    meta: Option<&PitrMeta>,
    logged: Vec<String>,
    patience: bool,
) -> Pitr {
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
    let all_are_sliced = members.iter().all(|rs| sliced(rs));
    if conf && !patience {
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
    let begins = conf && patience && !all_are_sliced;
    Pitr { conf, run, nodes: run.then_some(nodes), error, slicers, notes: Vec::new(), warnings, begins }
}

impl Pitr {
    /// Adds a note or warning about how the original's agents affect slicing.
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
        if self.begins {
            out.push_str("\n  slicing begins in a moment");
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
        let off = judge(false, &members(), &[], None, Vec::new(), false);
        assert_eq!(serde_json::to_string(&off).expect("json"), r#"{"conf":false,"run":false,"nodes":null}"#);
    }

    #[test]
    fn replica_sets_that_nobody_slices_are_named() {
        let all = judge(true, &members(), &[], None, Vec::new(), false);
        assert!(all.warnings[0].starts_with("no agent slices the oplog:"), "{all:?}");
        let some = judge(true, &members(), &[lock("a")], None, Vec::new(), false);
        assert!(some.warnings[0].starts_with("no agent slices the oplog of b:"), "{some:?}");
        let none = judge(true, &members(), &[lock("b"), lock("a")], None, Vec::new(), false);
        assert_eq!((none.problems().count(), none.run), (0, true), "{none:?}");
        assert_eq!(none.nodes.expect("nodes"), ["a/h:1", "b/h:1"]);
    }

    #[test]
    fn what_has_to_begin_yet_is_no_alarm() {
        let begins = judge(true, &members(), &[lock("a")], None, Vec::new(), true);
        assert_eq!((begins.problems().count(), begins.text().contains("slicing begins")), (0, true), "{begins:?}");
        let began = judge(true, &members(), &[lock("a"), lock("b")], None, Vec::new(), true);
        assert!(!began.text().contains("slicing begins"), "{began:?}");
    }

    #[test]
    fn a_restore_explains_its_gap_and_the_pause_after_it_for_a_while() {
        let gap = Gap { rs: "a".into(), from: ts(1000), to: ts(1100) };
        let restores = |start, end| Restores { spans: vec![(start, end)] };
        assert!(restores(1010, None).hold_slicing(ts(9000)), "it runs");
        assert!(
            restores(1010, Some(1050)).hold_slicing(ts(1080)) && !restores(1010, Some(1050)).hold_slicing(ts(1081))
        );
        assert!(restores(1010, Some(1050)).just_made(&gap, ts(1200)));
        assert!(
            !restores(1010, Some(1050)).just_made(&gap, ts(1050 + 3601)),
            "somebody should have made a backup by now"
        );
        assert!(!restores(1101, Some(1150)).just_made(&gap, ts(1200)), "it began later");
        assert!(!restores(900, Some(950)).just_made(&gap, ts(1200)), "it had ended");
    }

    /// The oplog covers 300 s; less than 100 of them must not be left.
    #[test]
    fn a_window_that_closes_is_a_warning() {
        for (saved, warned) in [(390, false), (200, false), (199, true), (90, true)] {
            let pitr =
                judge(true, &members(), &[lock("a"), lock("b")], Some(&meta(saved, Vec::new())), Vec::new(), false);
            assert_eq!(pitr.warnings.len(), usize::from(warned), "{saved}: {pitr:?}");
        }
        let dead = judge(false, &members(), &[], Some(&meta(90, Vec::new())), Vec::new(), false);
        assert_eq!(dead.slicers, [], "what a dead slicer said is old");
    }

    #[test]
    fn a_mix_of_agents_is_told() {
        let mix = |leader| Mix { leader, rules: Rules::Named, originals: vec!["h:2".into()] };
        let mut pitr = judge(true, &members(), &[lock("a"), lock("b")], None, Vec::new(), false);
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
        let pitr = judge(
            true,
            &members(),
            &[lock("a"), lock("b")],
            Some(&meta),
            vec!["a/h:1: upload: no room".to_owned()],
            false,
        );
        assert_eq!(pitr.error.as_deref(), Some("a/h:1: upload: no room; a/h:1: no backup"));
        assert_eq!(pitr.problems().count(), 1);
        let off = judge(false, &members(), &[], Some(&meta), Vec::new(), false);
        assert_eq!(off.error, None);
    }
}
