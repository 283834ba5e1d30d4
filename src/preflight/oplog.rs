//! Pure: does every oplog hold its entries for longer than it takes until they are on the storage?

use super::{
    facts::{Facts, NodeFacts, Oplog, ReplsetFacts},
    finding::{Check, Finding, member},
};
use crate::config::resolved::Resolved;
use crate::model::config::Config;
use std::time::Duration;

/// Slices that should fit into an oplog.
const COMFORT: u64 = 10;
/// Seconds of writes that must have been seen before anybody can tell how soon an oplog will be full.
const TELLING: u64 = 600;

/// The longest slice of the oplog, and which setting it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    secs: u64,
    setting: &'static str,
}

fn span(config: Option<&Config>) -> Span {
    let Resolved { backup, pitr, .. } = Resolved::of(config.unwrap_or(&Config::default()));
    let secs = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let own = Span { secs: secs(backup.oplog_span), setting: backup.oplog_span_key };
    if !pitr.slicing.is_on() {
        return own;
    }
    let mut sliced = Span { secs: secs(pitr.oplog_span), setting: "pitr.oplogSpanMin" };
    if let Some(loss) = pitr.max_loss.map(secs).filter(|loss| *loss < sliced.secs) {
        sliced = Span { secs: loss, setting: "pitr.maxLossSec" };
    }
    if sliced.secs > own.secs { sliced } else { own }
}

impl Oplog {
    fn secs(&self) -> u64 {
        u64::from(self.newest.time.saturating_sub(self.oldest.time))
    }

    /// It loses its oldest entries. The server cuts it in pieces of up to a tenth.
    fn is_full(&self) -> bool {
        self.size >= self.max / 20 * 17
    }

    /// Seconds that it holds or, while it is not full, will hold; `None` while nobody can tell.
    fn expected(&self) -> Option<u64> {
        match (self.is_full(), self.secs()) {
            (true, secs) => Some(secs),
            (false, ..TELLING) => None,
            (false, secs) => {
                let all = u128::from(secs) * u128::from(self.max) / u128::from(self.size.max(1));
                Some(u64::try_from(all).unwrap_or(u64::MAX))
            }
        }
    }
}

/// The shortest window of each replica set against the slices.
pub(super) fn windows(facts: &Facts) -> Vec<Finding> {
    let span = span(facts.control.config.as_ref());
    let took = facts.control.newest_backup.and_then(|(_, secs)| u64::try_from(secs).ok()).unwrap_or(0);
    facts.replsets.iter().filter_map(|set| window(set, span, took)).collect()
}

fn window(set: &ReplsetFacts, span: Span, took: u64) -> Option<Finding> {
    let told = |node: &NodeFacts| Some((node.host.clone(), node.answer.as_ref().ok()?.oplog.clone().ok()?));
    let all = set.nodes.iter().filter(|node| node.has_data()).filter_map(told);
    // One that can't be told yet comes last.
    let (host, oplog) = all.min_by_key(|(_, oplog)| oplog.expected().unwrap_or(u64::MAX))?;
    let larger = format!(
        "enlarge the oplog (replSetResizeOplog on every member) or make {} smaller than the {} that it holds",
        span.setting,
        duration(oplog.secs())
    );
    let (held, cut) = (duration(oplog.secs()), duration(span.secs));
    let Some(expected) = oplog.expected() else {
        let percent = oplog.size.saturating_mul(100) / oplog.max.max(1);
        return Some(Finding::ok(Check::Oplog, &set.name, format!("not full yet: {percent} % after {held}")));
    };
    let subject = member(&set.name, &host);
    let will =
        if oplog.is_full() { format!("it holds {held}") } else { format!("it will hold {}", duration(expected)) };
    Some(if expected < span.secs && oplog.is_full() {
        let detail = format!(
            "{will}, less than a slice covers ({}: {cut}): entries are lost before they are saved",
            span.setting
        );
        Finding::failure(Check::Oplog, subject, detail).next(larger)
    } else if expected < span.secs.saturating_mul(COMFORT) {
        let detail = format!("{will}, a short time against the {cut} that a slice covers ({})", span.setting);
        Finding::warning(Check::Oplog, subject, detail).next(larger)
    } else if expected < took {
        let detail = format!("{will}, less than the newest backup took ({})", duration(took));
        Finding::warning(Check::Oplog, subject, detail).next("enlarge the oplog (replSetResizeOplog on every member)")
    } else {
        Finding::ok(Check::Oplog, &set.name, format!("{will}, a slice covers {cut}"))
    })
}

/// For people: the two largest units.
fn duration(secs: u64) -> String {
    match secs {
        ..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{BackupConf, PitrConf};
    use crate::preflight::{Verdict, tests::set_of};
    use bson::Timestamp;

    fn config(enabled: bool, slice: Option<f64>, loss: Option<f64>, backup: f64) -> Config {
        let pitr = PitrConf { enabled, oplog_span_min: slice, max_loss_sec: loss, ..PitrConf::default() };
        let backup = BackupConf { oplog_span_min: backup, ..BackupConf::default() };
        Config { pitr: Some(pitr), backup: Some(backup), ..Config::default() }
    }

    #[test]
    fn the_longest_slice_counts() {
        for (config, secs, setting) in [
            (None, 600, "pitr.oplogSpanMin"),
            (Some(config(false, Some(5.0), None, 0.0)), 300, "pitr.oplogSpanMin"),
            (Some(config(true, Some(5.0), None, 2.0)), 300, "pitr.oplogSpanMin"),
            (Some(config(false, Some(5.0), None, 2.0)), 120, "backup.oplogSpanMin"),
            (Some(config(true, Some(5.0), Some(30.0), 0.25)), 30, "pitr.maxLossSec"),
            (Some(config(true, None, Some(30.0), 0.0)), 600, "pitr.oplogSpanMin"),
        ] {
            assert_eq!(span(config.as_ref()), Span { secs, setting }, "{config:?}");
        }
    }

    #[test]
    fn a_window_is_judged_when_it_can_be_told() {
        let span = Span { secs: 600, setting: "pitr.oplogSpanMin" };
        for (secs, size, took, verdict, part) in [
            (20, 10, 0, Verdict::Ok, "not full yet: 10 % after 20 s"),
            (599, 100, 0, Verdict::Failure, "less than a slice"),
            (599, 90, 0, Verdict::Failure, "less than a slice"),
            (600, 100, 0, Verdict::Warning, "it holds 10 min, a short time"),
            (5999, 100, 0, Verdict::Warning, "a short time"),
            (6000, 100, 0, Verdict::Ok, "it holds 100 min"),
            (6000, 100, 7000, Verdict::Warning, "the newest backup took"),
            (700, 50, 0, Verdict::Warning, "it will hold 23 min"),
            (700, 1, 0, Verdict::Ok, "it will hold 19 h"),
        ] {
            let at = |time| Timestamp { time, increment: 1 };
            let set = set_of(Oplog { oldest: at(1000), newest: at(1000 + secs), size, max: 100 });
            let got = window(&set, span, took).expect("a finding");
            assert!(got.verdict == verdict && got.detail.contains(part), "{secs} {size}: {got:?}");
        }
    }
}
