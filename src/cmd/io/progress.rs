//! A live bar on a terminal; a line per phase elsewhere; nothing when a program reads, or with `--quiet`.

use super::{fit, output::Format};
use crate::model::{backup::Progress, status::Status};
use crate::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;

/// Columns that the bar needs for everything.
const WIDE: usize = 110;

/// What is shown while an operation runs.
pub struct View {
    what: &'static str,
    lines: bool,
    bar: Option<ProgressBar>,
    last: String,
}

impl View {
    #[must_use]
    pub fn new(out: Format, what: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (out.is_chatty() && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { what, lines: out.is_chatty() && !terminal, bar, last: String::new() }
    }

    /// Shows the newest state.
    pub fn show(&mut self, status: Status, progress: &[&Progress]) {
        let sum = Sum::of(progress);
        let phase = if sum.phase.is_empty() || !matches!(status, Status::Starting | Status::Running) {
            status.to_string()
        } else {
            sum.phase.clone()
        };
        let new_phase = phase != self.last;
        if new_phase {
            self.last.clone_from(&phase);
        }
        if self.lines && new_phase {
            eprintln!("{}: {}", self.what, printable::line(&phase));
        }
        let Some(bar) = &self.bar else { return };
        if status.is_final() {
            return self.end();
        }
        let known = status == Status::Running && sum.bytes_total > 0;
        if new_phase {
            bar.reset();
        }
        bar.set_style(if status == Status::Running { style(known) } else { waiting() });
        bar.set_prefix(format!("{}: {}", self.what, printable::line(&phase)));
        if known {
            bar.set_length(sum.bytes_total.max(sum.bytes));
        }
        bar.set_position(sum.bytes);
        // A narrow terminal has no room for the second count.
        let counted = if fit::stderr_width() < WIDE { (0, 0) } else { (sum.docs, sum.docs_total) };
        bar.set_message(match counted {
            (0, 0) => String::new(),
            (done, 0) => format!(", {done} documents"),
            (done, total) => format!(", {done}/{total} documents"),
        });
    }

    /// Takes the bar away.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.end();
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{prefix} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left{msg}"
    } else {
        "{spinner} {prefix} {elapsed} {binary_bytes}{msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// For steps that have nothing to count.
fn waiting() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// All replica sets together.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    pub phase: String,
    pub bytes: u64,
    /// 0 when one of them does not know.
    #[serde(rename = "bytesTotal")]
    pub bytes_total: u64,
    pub docs: u64,
    #[serde(rename = "docsTotal")]
    pub docs_total: u64,
}

impl Sum {
    /// Adds them up.
    #[must_use]
    pub fn of(progress: &[&Progress]) -> Self {
        let add = |of: fn(&Progress) -> i64| progress.iter().map(|p| u64::try_from(of(p)).unwrap_or_default()).sum();
        let total = |of: fn(&Progress) -> i64| if progress.iter().all(|p| of(p) > 0) { add(of) } else { 0 };
        Self {
            // The slowest decides; phases follow each other alike everywhere.
            phase: progress.first().map(|p| p.phase.clone()).unwrap_or_default(),
            bytes: add(|p| p.bytes),
            bytes_total: total(|p| p.bytes_total),
            docs: add(|p| p.docs),
            docs_total: total(|p| p.docs_total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_sets_add_up_and_an_unknown_total_stays_unknown() {
        let one = Progress { phase: "dump".into(), bytes: 5, bytes_total: 10, docs: 1, docs_total: 2, at: 0 };
        let other = Progress { bytes_total: 0, ..one.clone() };
        let sum = Sum::of(&[&one, &one]);
        assert_eq!((sum.bytes, sum.bytes_total, sum.docs_total), (10, 20, 4));
        assert_eq!(Sum::of(&[&one, &other]).bytes_total, 0);
        assert_eq!(Sum::of(&[]), Sum::default());
    }
}
