//! `pbm logs`: what the agents say, from the log that they share.

use crate::cmd::io::{
    context::Context,
    error::{CliError, Result},
    offered_values::offering,
    output::{self, Format, Report},
};
use crate::control::LogQuery;
use crate::log::Level;
use crate::model::{agent::AgentStat, log::LogEntry};
use crate::printable;
use bson::oid::ObjectId;
use clap::{Args, builder::NonEmptyStringValueParser};
use futures::StreamExt;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::{collections::HashSet, pin::pin};

/// Show the agents' log
#[derive(Debug, Args)]
pub struct Logs {
    /// Only these events: EVENT or EVENT/NAME, such as backup or backup/2026-11-21T00:44:27Z
    #[arg(short, long, value_name = "EVENT", value_parser = offering(NonEmptyStringValueParser::new(), EVENTS), hide_possible_values = true)]
    event: Option<String>,
    /// Show the operation's ID too
    #[arg(short = 'x', long)]
    extra: bool,
    /// Go on with new lines until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only this node: RS or RS/HOST:PORT
    #[arg(short, long, value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// Only the operation with this ID
    #[arg(short = 'i', long, value_name = "OPID", value_parser = parse_opid)]
    opid: Option<String>,
    /// This severity and worse: D, I, W, E or F
    #[arg(short, long, value_name = "SEVERITY", default_value = "I", value_parser = offering(parse_severity, &["D", "I", "W", "E", "F"]), hide_possible_values = true)]
    severity: Level,
    /// The newest N lines; 0 for all
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    tail: u32,
    /// Time zone of the lines: UTC, Local, or a name such as Europe/Paris
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = parse_zone)]
    timezone: TimeZone,
}

/// The event names that agents write for their work. Completion offers them, and a request for any other name gets a message
/// that no event has this name.
const EVENTS: &[&str] = &[
    "addConfigProfile",
    "backup",
    "cancelBackup",
    "cleanup",
    "cleanupFailed",
    "delete",
    "deletePitr",
    "pitr",
    "removeConfigProfile",
    "replay",
    "restore",
    "resync",
];

fn parse_severity(text: &str) -> Result<Level, String> {
    text.parse()
}

fn parse_opid(text: &str) -> Result<String, String> {
    let hex = text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "an ID has 24 hexadecimal digits; `pbm logs -x` shows it".to_owned())
}

fn parse_zone(text: &str) -> Result<TimeZone, String> {
    match text {
        "UTC" | "" => Ok(TimeZone::UTC),
        "Local" | "local" => Ok(TimeZone::system()),
        name => TimeZone::get(name)
            .map_err(|_| "no such time zone; use UTC, Local or a name such as Europe/Paris".to_owned()),
    }
}

/// A line in the original's JSON.
#[derive(Debug, Serialize)]
pub struct Line {
    ts: i64,
    s: i32,
    rs: String,
    node: String,
    e: String,
    eobj: String,
    ep: Epoch,
    #[serde(skip_serializing_if = "String::is_empty")]
    opid: String,
    msg: String,
}

#[derive(Debug, Serialize)]
struct Epoch {
    #[serde(rename = "T")]
    time: u32,
    #[serde(rename = "I")]
    increment: u32,
}

impl From<&LogEntry> for Line {
    fn from(entry: &LogEntry) -> Self {
        let it = entry.clone();
        let (time, increment) = it.ep.map_or((0, 0), |ep| (ep.time, ep.increment));
        Self {
            ts: it.ts,
            s: it.s,
            rs: it.rs,
            node: it.node,
            e: it.e,
            eobj: it.eobj,
            ep: Epoch { time, increment },
            opid: it.opid,
            msg: it.msg,
        }
    }
}

/// How a line is written for people.
#[derive(Debug)]
pub struct Style {
    zone: TimeZone,
    extra: bool,
    /// Left out when only one node is asked for.
    node: bool,
}

impl Style {
    /// With all that a line has.
    pub fn full() -> Self {
        Self { zone: TimeZone::UTC, extra: true, node: true }
    }

    pub fn line(&self, it: &LogEntry) -> String {
        let zoned = jiff::Timestamp::from_second(it.ts).map(|at| at.to_zoned(self.zone.clone()));
        let at = match zoned {
            Ok(at) if self.zone == TimeZone::UTC => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            Err(_) => it.ts.to_string(),
        };
        let letter = ["F", "E", "W", "I", "D"].get(usize::try_from(it.s).unwrap_or(9)).unwrap_or(&"?");
        let mut out = format!("{at} {letter}");
        if self.node {
            out.push_str(&format!(" [{}/{}]", it.rs, it.node));
        }
        match (it.e.is_empty(), it.eobj.is_empty()) {
            (true, _) => {}
            (false, true) => out.push_str(&format!(" [{}]", it.e)),
            (false, false) => out.push_str(&format!(" [{}/{}]", it.e, it.eobj)),
        }
        if self.extra && !it.opid.is_empty() {
            out.push_str(&format!(" [opid {}]", it.opid));
        }
        printable::line(&format!("{out} {}", it.msg)).into_owned()
    }
}

/// All lines at once.
struct Lines<'a> {
    lines: Vec<Line>,
    entries: &'a [LogEntry],
    style: &'a Style,
}

impl Serialize for Lines<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.lines.serialize(to)
    }
}

impl Report for Lines<'_> {
    fn text(&self) -> String {
        self.entries.iter().map(|entry| self.style.line(entry)).collect::<Vec<_>>().join("\n")
    }

    fn is_prose(&self) -> bool {
        false
    }
}

impl Logs {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let mut query = self.query();
        let style = Style { zone: self.timezone.clone(), extra: self.extra, node: query.node.is_none() };
        let entries = cx.control.logs.newest(&query, self.tail.into()).await?;
        if !self.follow {
            if entries.is_empty() {
                cx.out.note(&self.nothing(cx, &query).await);
            }
            if !(cx.out.is_text() && entries.is_empty()) {
                let lines = entries.iter().map(Line::from).collect();
                cx.out.print(&Lines { lines, entries: &entries, style: &style });
            }
            return Ok(());
        }
        let show = |entry: &LogEntry| match cx.out {
            Format::Text | Format::Quiet => output::line(&style.line(entry)),
            format => format.print_json(&Line::from(entry)),
        };
        entries.iter().for_each(show);
        let mut seen: HashSet<_> = entries.iter().filter_map(|entry| entry.id).collect();
        // Without a line yet everything is new, whatever the agents' clocks say.
        query.since = entries.last().map(|last| last.ts);
        // The stream begins with the lines of the last second: those before the tail are not wanted, later ones are.
        let shown_up_to = entries.last().map(|last| (last.ts, last.ns));
        for entry in cx.control.logs.newest(&query, 0).await? {
            let new = entry.id.is_none_or(|id| seen.insert(id));
            if new && shown_up_to.is_none_or(|up_to| (entry.ts, entry.ns) > up_to) {
                show(&entry);
            }
        }
        tokio::select! {
            ended = follow(cx, query, seen, show) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }

    /// Explains why no line was found: the requested event or node may not exist.
    async fn nothing(&self, cx: &Context, query: &LogQuery) -> String {
        let mut why = Vec::new();
        if let Some(event) = query.event.as_deref().filter(|event| !EVENTS.contains(event)) {
            why.push(format!("no event is called {event}; there are {}", EVENTS.join(", ")));
        }
        if let Some(asked) = &self.node {
            let agents = cx.control.agents.all().await.unwrap_or_default();
            let is_it = |it: &AgentStat| {
                query.replset.as_ref() == Some(&it.rs) && query.node.as_ref().is_none_or(|node| *node == it.n)
            };
            if !agents.iter().any(is_it) {
                let known: Vec<String> = agents.iter().map(|it| format!("{}/{}", it.rs, it.n)).collect();
                why.push(format!("no agent is called {asked}; there are {}", known.join(", ")));
            }
        }
        if why.is_empty() {
            "No such lines in the log".to_owned()
        } else {
            format!("No such lines in the log: {}", why.join("; "))
        }
    }

    fn query(&self) -> LogQuery {
        let (event, object) = split(self.event.as_deref());
        let (replset, node) = split(self.node.as_deref());
        LogQuery {
            replset,
            node,
            severity: Some(self.severity.0 as i32),
            event,
            object,
            opid: self.opid.clone(),
            since: None,
        }
    }
}

fn split(text: Option<&str>) -> (Option<String>, Option<String>) {
    match text.map(|text| text.split_once('/').unwrap_or((text, ""))) {
        None => (None, None),
        Some((head, tail)) => (Some(head.to_owned()), (!tail.is_empty()).then(|| tail.to_owned())),
    }
}

/// Shows new lines as they come. The cursor is opened again when it ends: an empty log, or a new primary.
async fn follow(
    cx: &Context,
    mut query: LogQuery,
    mut seen: HashSet<ObjectId>,
    show: impl Fn(&LogEntry),
) -> Result<()> {
    let mut failures = 0;
    loop {
        let mut failed = None;
        match cx.control.logs.follow(&query).await {
            Ok(stream) => {
                let mut stream = pin!(stream);
                while let Some(entry) = stream.next().await {
                    match entry {
                        Ok(entry) => {
                            failures = 0;
                            if query.since.is_none_or(|since| since < entry.ts) {
                                // Whoever reads again starts at this second, so only its lines need to be known.
                                seen.clear();
                                query.since = Some(entry.ts);
                            }
                            if entry.id.is_none_or(|id| seen.insert(id)) {
                                show(&entry);
                            }
                        }
                        Err(error) => failed = Some(error),
                    }
                }
            }
            Err(error) => failed = Some(error),
        }
        if let Some(error) = failed {
            failures += 1;
            if failures > 5 {
                return Err(CliError::from(error));
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LogEntry {
        LogEntry {
            id: None,
            ts: 1_795_222_194,
            ns: 0,
            tz: 0,
            s: 3,
            rs: "rs0".into(),
            node: "h:1".into(),
            e: "backup".into(),
            eobj: "b".into(),
            ep: None,
            opid: "abc".into(),
            msg: "hello".into(),
        }
    }

    #[test]
    fn lines_for_people() {
        let mut style = Style { zone: TimeZone::UTC, extra: false, node: true };
        assert_eq!(style.line(&entry()), "2026-11-21T00:49:54Z I [rs0/h:1] [backup/b] hello");
        style = Style { zone: parse_zone("America/New_York").expect("a zone"), extra: true, node: false };
        assert_eq!(style.line(&entry()), "2026-11-20T19:49:54-05:00 I [backup/b] [opid abc] hello");
        assert!(parse_zone("No/Where").is_err());
    }

    #[test]
    fn lines_for_programs() {
        assert_eq!(
            serde_json::to_string(&Line::from(&entry())).expect("json"),
            r#"{"ts":1795222194,"s":3,"rs":"rs0","node":"h:1","e":"backup","eobj":"b","ep":{"T":0,"I":0},"opid":"abc","msg":"hello"}"#
        );
    }

    #[test]
    fn filters_split_at_the_first_slash() {
        assert_eq!(split(Some("rs0/h:1")), (Some("rs0".into()), Some("h:1".into())));
        assert_eq!(split(Some("rs0")), (Some("rs0".into()), None));
    }
}
