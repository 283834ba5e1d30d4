//! The oplog that is saved: what can be restored from it, and where it has gaps.

use super::snapshots::Judge;
use crate::cmd::io::{context::Context, error::Result, units};
use crate::model::backup::BackupMeta;
use crate::pitr::timeline::{self, Gap, Line, Lines, Range};
use bson::Timestamp;
use futures::TryStreamExt;

/// Gaps that people are shown one by one.
const SHOWN: usize = 10;

/// What the index of chunks says, read as a stream: it may be long.
#[derive(Debug, Default)]
pub struct Saved {
    pub lines: Lines,
    pub size: i64,
    /// The replica sets of the cluster.
    pub members: Vec<String>,
}

impl Saved {
    /// Under the names that replica sets have in this cluster.
    pub async fn read(cx: &Context, judge: &Judge) -> Result<Self> {
        let mut out = Self { members: judge.cluster.names(), ..Self::default() };
        let lines = async {
            let mut times = std::pin::pin!(cx.control.chunks.times().await?);
            while let Some(it) = times.try_next().await? {
                let line = Line { start: it.start_ts, end: it.end_ts };
                timeline::extend(&mut out.lines, judge.renamed(&it.rs), line);
            }
            anyhow::Ok(())
        };
        let ((), size) = futures::try_join!(lines, cx.control.chunks.bytes())?;
        out.size = size;
        Ok(out)
    }

    /// What every replica set of the cluster has.
    #[must_use]
    pub fn ranges(&self, backups: &[BackupMeta]) -> Vec<Range> {
        timeline::with_bases(&timeline::seconds(&timeline::common(&self.lines, &self.members)), backups)
    }

    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        timeline::gaps(&self.lines, &self.members)
    }

    /// Gaps that keep the newest base from being restored to what comes after them.
    #[must_use]
    pub fn gaps_after_the_newest_base(&self, backups: &[BackupMeta]) -> Vec<Gap> {
        let Some(base) = newest_base(backups) else { return Vec::new() };
        let mut gaps: Vec<Gap> = self.gaps().into_iter().filter(|gap| gap.to > base).collect();
        gaps.extend(self.members.iter().filter_map(|rs| before_the_first(rs, self.lines.get(rs)?, base)));
        gaps
    }
}

/// What is missing between the base and the oldest of all lines, if that begins after it.
fn before_the_first(rs: &str, lines: &[Line], base: Timestamp) -> Option<Gap> {
    let first = lines.first().filter(|line| line.start > base)?;
    Some(Gap { rs: rs.to_owned(), from: base, to: first.start })
}

/// The text form: the newest gaps, one per line, and the number of the others. Gaps that end before the newest base are only
/// counted, because they don't affect restores of later data.
#[must_use]
pub fn gaps_text(gaps: &[Gap], newest_base: Option<Timestamp>) -> Vec<String> {
    let (old, new): (Vec<&Gap>, Vec<&Gap>) =
        gaps.iter().partition(|gap| newest_base.is_some_and(|base| gap.to <= base));
    let hidden = new.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = new[hidden..].iter().map(|gap| gap_text(gap)).collect();
    let more = old.len() + hidden;
    if more > 0 {
        let gaps = if more == 1 { "gap" } else { "gaps" };
        lines.insert(0, format!("{more} older {gaps} (`pbm list --gaps` shows them)"));
    }
    lines
}

/// The end time of the newest backup on which saved oplog can be replayed.
#[must_use]
pub fn newest_base(backups: &[BackupMeta]) -> Option<Timestamp> {
    backups.iter().filter(|backup| timeline::is_base(backup)).map(|base| base.last_write_ts).max()
}

/// `gap on rs0: from - to`.
#[must_use]
pub fn gap_text(gap: &Gap) -> String {
    let (from, to) = (units::table_time(gap.from.time.into()), units::table_time(gap.to.time.into()));
    format!("gap on {}: {from} - {to}", gap.rs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn base(time: u32) -> BackupMeta {
        let meta = serde_json::json!({ "name": "b", "status": "done" });
        BackupMeta { last_write_ts: ts(time), ..serde_json::from_value(meta).expect("a backup") }
    }

    fn saved(chunks: &[(&str, u32, u32)]) -> Saved {
        let mut out = Saved { members: vec!["a".to_owned(), "b".to_owned()], ..Saved::default() };
        for (rs, start, end) in chunks {
            timeline::extend(&mut out.lines, rs, Line { start: ts(*start), end: ts(*end) });
        }
        out
    }

    #[test]
    fn only_gaps_after_the_newest_base_count() {
        let holes = saved(&[("a", 10, 20), ("a", 30, 90), ("b", 10, 50), ("b", 60, 90)]);
        let found = |time| holes.gaps_after_the_newest_base(&[base(5), base(time)]);
        let told = |time| found(time).iter().map(|gap| (gap.rs.clone(), gap.to.time)).collect::<Vec<_>>();
        assert_eq!(told(40), [("b".to_owned(), 60)]);
        assert_eq!(told(55), [("b".to_owned(), 60)], "the base is inside the gap");
        assert_eq!(told(60), []);
        assert_eq!(told(15).len(), 2);
        assert_eq!(holes.gaps_after_the_newest_base(&[]), []);
        let late = saved(&[("a", 30, 90), ("b", 20, 90)]);
        assert_eq!(late.gaps_after_the_newest_base(&[base(20)])[0], Gap { rs: "a".into(), from: ts(20), to: ts(30) });
    }

    #[test]
    fn many_gaps_are_counted() {
        let gap = |n| Gap { rs: "a".into(), from: ts(n), to: ts(n + 1) };
        let gaps: Vec<Gap> = (2000..2012).map(gap).collect();
        let text = gaps_text(&gaps, None);
        assert_eq!((text.len(), text[0].as_str()), (11, "2 older gaps (`pbm list --gaps` shows them)"));
        assert_eq!(text[10], "gap on a: 1970-01-01T00:33:31 - 1970-01-01T00:33:32");
        assert_eq!(gaps_text(&gaps, Some(ts(2012))), ["12 older gaps (`pbm list --gaps` shows them)"]);
        let text = gaps_text(&gaps, Some(ts(2011)));
        assert_eq!((text.len(), text[0].as_str()), (2, "11 older gaps (`pbm list --gaps` shows them)"));
    }
}
