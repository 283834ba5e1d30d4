//! The running section of `pbm status`: what is under way, how far it is, and how long it may still take.

use crate::cmd::io::{agents, context::Context, error::Result, progress::Sum, units};
use crate::control::unix_now;
use crate::model::{
    backup::Progress,
    command::name,
    lock::LockHeader,
    status::{Condition, Status},
};
use serde::Serialize;

/// Empty when nothing runs.
#[derive(Debug, Default, Serialize)]
pub struct Running {
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "opID", skip_serializing_if = "String::is_empty")]
    opid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "startTS", skip_serializing_if = "Option::is_none")]
    start: Option<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
    /// *Added by us*.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Left>,
}

/// All replica sets together.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Left {
    #[serde(flatten)]
    sum: Sum,
    /// Seconds, if the whole is known and something is done.
    #[serde(rename = "secondsLeft", skip_serializing_if = "Option::is_none")]
    seconds: Option<i64>,
}

impl Left {
    /// `None` before the first sample and outside of the long step.
    fn of(status: Status, progress: &[&Progress], conditions: &[Condition], now: i64) -> Option<Self> {
        if status != Status::Running || progress.is_empty() {
            return None;
        }
        let sum = Sum::of(progress);
        let begun = conditions.iter().rev().find(|it| it.status == status).map(|it| it.timestamp);
        let seconds = begun.and_then(|begun| {
            let (done, total) = (i128::from(sum.bytes), i128::from(sum.bytes_total));
            let passed = i128::from(now.saturating_sub(begun).max(0));
            // As fast as so far.
            (done > 0 && total >= done).then(|| i64::try_from(passed * (total - done) / done).unwrap_or(i64::MAX))
        });
        Some(Self { sum, seconds })
    }

    fn text(&self) -> String {
        let Sum { phase, bytes, bytes_total, docs, docs_total } = &self.sum;
        let size = |bytes: u64| units::size(i64::try_from(bytes).unwrap_or(i64::MAX));
        let mut out = format!("{phase}: {}", size(*bytes));
        if *bytes_total > 0 {
            out.push_str(&format!(" of {}", size(*bytes_total)));
        }
        match (docs, docs_total) {
            (0, 0) => {}
            (done, 0) => out.push_str(&format!(", {done} documents")),
            (done, total) => out.push_str(&format!(", {done} of {total} documents")),
        }
        if let Some(seconds) = self.seconds {
            out.push_str(&format!(", about {} left", units::span(seconds)));
        }
        out
    }
}

/// Reads the section.
pub async fn read(cx: &Context) -> Result<Running> {
    let mut locks = agents::living_locks(&cx.control).await?;
    locks.sort_by(|a, b| a.header.replset.cmp(&b.header.replset));
    let Some(lock) = locks.into_iter().next() else { return Ok(Running::default()) };
    let LockHeader { kind, opid, .. } = lock.header;
    let mut out = Running { kind, opid, ..Running::default() };
    match out.kind.as_str() {
        name::BACKUP => {
            if let Some(backup) = cx.control.backups.by_opid(&out.opid).await? {
                let progress: Vec<&Progress> = backup.replsets.iter().filter_map(|rs| rs.progress.as_ref()).collect();
                out.progress = Left::of(backup.status, &progress, &backup.conditions, unix_now());
                out.name = backup.name;
                out.start = Some(backup.start_ts);
                out.status = stage(backup.status, "snapshot backup", "oplog backup");
            }
        }
        name::RESTORE | name::REPLAY => {
            if let Some(restore) = cx.control.restores.by_opid(&out.opid).await? {
                let progress: Vec<&Progress> = restore.replsets.iter().filter_map(|rs| rs.progress.as_ref()).collect();
                out.progress = Left::of(restore.status, &progress, &restore.conditions, unix_now());
                out.name = restore.name;
                out.start = Some(restore.start_ts);
                out.status = stage(restore.status, "snapshot restore", "oplog restore");
            }
        }
        _ => {}
    }
    Ok(out)
}

/// The original's words for the two long steps.
fn stage(status: Status, data: &str, oplog: &str) -> String {
    match status {
        Status::Running => data.to_owned(),
        Status::DumpDone => oplog.to_owned(),
        other => other.to_string(),
    }
}

impl Running {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        if self.opid.is_empty() {
            return "  (nothing)".to_owned();
        }
        let mut out = format!("  {} {}", self.kind, self.name).trim_end().to_owned();
        if let Some(start) = self.start {
            out.push_str(&format!(", started at {}", units::rfc3339(start)));
        }
        if !self.status.is_empty() {
            out.push_str(&format!(", status: {}", self.status));
        }
        out = format!("{out} [opid {}]", self.opid);
        if let Some(progress) = &self.progress {
            out.push_str(&format!("\n  {}", progress.text()));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_the_originals_words() {
        assert_eq!(stage(Status::Running, "a", "b"), "a");
        assert_eq!(stage(Status::DumpDone, "a", "b"), "b");
        assert_eq!(stage(Status::Starting, "a", "b"), "starting");
    }

    #[test]
    fn time_left_is_what_it_takes_at_the_rate_so_far() {
        let sample = Progress { phase: "dump".into(), bytes: 1024, bytes_total: 4096, docs: 1, docs_total: 4, at: 0 };
        let begun = [Condition { timestamp: 100, status: Status::Running, error: None }];
        let left = Left::of(Status::Running, &[&sample, &sample], &begun, 130).expect("progress");
        assert_eq!(left.seconds, Some(90));
        assert_eq!(left.text(), "dump: 2.0 KiB of 8.0 KiB, 2 of 8 documents, about 1m30s left");
        let none = Progress { bytes: 0, ..sample.clone() };
        assert_eq!(Left::of(Status::Running, &[&none], &begun, 130).and_then(|left| left.seconds), None);
        let unknown = Progress { bytes_total: 0, docs_total: 0, ..sample.clone() };
        let left = Left::of(Status::Running, &[&unknown], &begun, 130).expect("progress");
        assert_eq!((left.seconds, left.text().as_str()), (None, "dump: 1.0 KiB, 1 documents"));
        assert_eq!(Left::of(Status::Running, &[&sample], &[], 130).and_then(|left| left.seconds), None);
        assert_eq!(Left::of(Status::DumpDone, &[&sample], &begun, 130), None);
        assert_eq!(Left::of(Status::Running, &[], &begun, 130), None);
    }
}
