//! The log as text: where it goes and in what form. Both can change while the agent runs.

use super::{Level, LogOptions};
use crate::model::log::{LogEntry, Severity};
use crate::printable;
use anyhow::Context as _;
use jiff::Zoned;
use std::{
    fs::File,
    io::{self, Write},
    os::linux::fs::MetadataExt as _,
    path::Path,
    sync::Mutex,
};

/// stderr or a file.
pub(super) struct TextSink {
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    form: Form,
    level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    json: bool,
    /// journald has the time already, and takes a line's severity from a prefix (sd-daemon(3)).
    journal: bool,
}

impl TextSink {
    pub(super) fn open(options: &LogOptions) -> anyhow::Result<Self> {
        Ok(Self { state: Mutex::new(State::open(options)?) })
    }

    /// Opens the file again, which may have been moved away or be another one, and goes on there with these options. When
    /// that is not possible everything stays as it was.
    pub(super) fn change(&self, options: &LogOptions) -> anyhow::Result<()> {
        let state = State::open(options)?;
        if let Ok(mut held) = self.state.lock() {
            *held = state;
        }
        Ok(())
    }

    /// Writes the line unless it is less severe than what is wanted.
    pub(super) fn write(&self, now: &Zoned, entry: &LogEntry) {
        let Ok(mut state) = self.state.lock() else { return };
        if entry.s <= state.level.0 as i32 {
            let line = state.form.line(now, entry);
            // A log that can't be written must not stop a backup. One call: lines of several writers stay whole.
            let _ = state.out.write_all(line.as_bytes());
        }
    }
}

impl State {
    fn open(options: &LogOptions) -> anyhow::Result<Self> {
        let file = options.path.as_deref().filter(|path| *path != Path::new("/dev/stderr"));
        let out: Box<dyn Write + Send> = match file {
            None => Box::new(io::stderr()),
            Some(path) => {
                let file = File::options().append(true).create(true).open(path);
                Box::new(file.with_context(|| format!("open the log file {}", path.display()))?)
            }
        };
        let journal = file.is_none() && is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
        Ok(Self { out, form: Form { json: options.json, journal }, level: options.level })
    }
}

/// Why the program ends, on stderr; as an error where that is the journal.
pub(super) fn last_words(text: &str) {
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    let prefix = if journal { format!("<{}>", priority(Severity::Error as i32)) } else { String::new() };
    eprintln!("{prefix}{}", printable::lines(text).replace('\n', &format!("\n{prefix}")));
}

/// Does stderr lead to the journal? `stream` is what systemd tells: device and inode of what it opened, which our stderr
/// may no longer be.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|it| it.split_once(':')) else { return false };
    let Ok(ours) = std::fs::metadata("/dev/stderr") else { return false };
    device.parse() == Ok(ours.st_dev()) && inode.parse() == Ok(ours.st_ino())
}

impl Form {
    fn line(self, now: &Zoned, entry: &LogEntry) -> String {
        let mut line = match (self.json, self.journal) {
            (true, _) => json_line(entry),
            (false, true) => said(entry),
            (false, false) => {
                format!("{} {} {}", now.strftime("%Y-%m-%dT%H:%M:%S%.3f%z"), letter(entry.s), said(entry))
            }
        };
        if self.journal {
            let prefix = format!("<{}>", priority(entry.s));
            line = format!("{prefix}{}", line.replace('\n', &format!("\n{prefix}")));
        }
        line + "\n"
    }
}

fn said(entry: &LogEntry) -> String {
    match (entry.e.as_str(), entry.eobj.as_str()) {
        ("", _) => entry.msg.clone(),
        (event, "") => format!("[{event}] {}", entry.msg),
        (event, object) => format!("[{event}/{object}] {}", entry.msg),
    }
}

fn letter(severity: i32) -> char {
    match severity {
        0 => Severity::Fatal,
        1 => Severity::Error,
        2 => Severity::Warning,
        3 => Severity::Info,
        _ => Severity::Debug,
    }
    .letter()
}

/// As syslog counts.
fn priority(severity: i32) -> u8 {
    match severity {
        0 => 2,
        1 => 3,
        2 => 4,
        3 => 6,
        _ => 7,
    }
}

fn json_line(entry: &LogEntry) -> String {
    serde_json::json!({
        "ts": entry.ts, "ns": entry.ns, "s": entry.s, "e": entry.e, "eobj": entry.eobj, "opid": entry.opid, "msg": entry.msg,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LogEntry {
        LogEntry {
            id: None,
            ts: 1_760_000_000,
            ns: 5,
            tz: 0,
            s: Severity::Warning as i32,
            rs: String::new(),
            node: String::new(),
            e: "backup".to_owned(),
            eobj: "2026".to_owned(),
            ep: None,
            opid: "o1".to_owned(),
            msg: "one\ntwo".to_owned(),
        }
    }

    #[test]
    fn the_journal_gets_severities_and_no_times() {
        let now: Zoned = "2026-03-01T10:20:30+00[UTC]".parse().expect("a time");
        let line = |json, journal| Form { json, journal }.line(&now, &entry());
        assert_eq!(line(false, false), "2026-03-01T10:20:30.000+0000 W [backup/2026] one\ntwo\n");
        assert_eq!(line(false, true), "<4>[backup/2026] one\n<4>two\n");
        assert!(line(true, true).starts_with("<4>{\"ts\":1760000000,"), "{}", line(true, true));
        assert!(line(true, false).starts_with("{\"ts\":1760000000,"));
    }

    #[test]
    fn only_the_stream_that_stderr_is_counts_as_the_journal() {
        let ours = std::fs::metadata("/dev/stderr").expect("stderr");
        assert!(is_journal(Some(&format!("{}:{}", ours.st_dev(), ours.st_ino()))));
        for other in [None, Some(""), Some("1"), Some("x:y"), Some("1:2")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
