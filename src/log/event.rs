//! From tracing events and spans to log lines in the original's form.

use super::{database::DbSink, text::TextSink};
use crate::model::log::{LogEntry, Severity};
use crate::printable;
use bson::{Timestamp, oid::ObjectId};
use jiff::Zoned;
use std::{fmt, fmt::Write as _, str::FromStr, sync::Arc};
use tracing::{
    Event, Metadata, Span, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Least severe level to write, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub Severity);

impl FromStr for Level {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(match s.to_ascii_uppercase().as_str() {
            "D" | "DEBUG" => Severity::Debug,
            "I" | "INFO" => Severity::Info,
            "W" | "WARNING" => Severity::Warning,
            "E" | "ERROR" => Severity::Error,
            "F" | "FATAL" => Severity::Fatal,
            _ => return Err(format!("unknown log level '{s}'; use D, I, W, E or F")),
        }))
    }
}

/// The span of one operation: lines inside carry its event (a command's name), object (a backup's or restore's name),
/// OPID and configuration epoch.
#[must_use]
pub fn operation(event: &str, object: &str, opid: &str, epoch: Option<Timestamp>) -> Span {
    let epoch = epoch.unwrap_or(Timestamp { time: 0, increment: 0 });
    tracing::info_span!("op", event, object, opid, ep_t = epoch.time, ep_i = epoch.increment)
}

/// What a span adds to the lines inside it.
#[derive(Debug, Clone, Default)]
struct Scope {
    event: String,
    object: String,
    opid: String,
    epoch: (u32, u32),
}

impl Visit for Scope {
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => value.clone_into(&mut self.event),
            "object" => value.clone_into(&mut self.object),
            "opid" => value.clone_into(&mut self.opid),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = u32::try_from(value).unwrap_or_default();
        match field.name() {
            "ep_t" => self.epoch.0 = value,
            "ep_i" => self.epoch.1 = value,
            _ => {}
        }
    }
}

/// The message and the other fields, as `key=value` after it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String can't fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let _ = write!(self.fields, " {}={value}", field.name());
    }
}

pub(super) fn layer(text: Arc<TextSink>, db: DbSink) -> LogLayer {
    LogLayer { text, db }
}

/// Turns events of this crate into lines for both sinks; other crates' only from warning on, and only as text.
pub(super) struct LogLayer {
    text: Arc<TextSink>,
    db: DbSink,
}

fn severity(level: tracing::Level) -> Severity {
    match level {
        tracing::Level::ERROR => Severity::Error,
        tracing::Level::WARN => Severity::Warning,
        tracing::Level::INFO => Severity::Info,
        _ => Severity::Debug,
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(env!("CARGO_PKG_NAME"))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span()
            || if is_ours(metadata) {
                *metadata.level() <= tracing::Level::DEBUG
            } else {
                *metadata.level() <= tracing::Level::WARN
            }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut scope = Scope::default();
            attributes.record(&mut scope);
            span.extensions_mut().insert(scope);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let scope = context
            .event_scope(event)
            .and_then(|mut spans| {
                spans.find_map(|s| s.extensions().get::<Scope>().filter(|f| !f.event.is_empty()).cloned())
            })
            .unwrap_or_default();
        let now = Zoned::now();
        let entry = LogEntry {
            id: Some(ObjectId::new()),
            ts: now.timestamp().as_second(),
            ns: i64::from(now.timestamp().subsec_nanosecond()),
            tz: i64::from(now.offset().seconds()),
            s: severity(*event.metadata().level()) as i32,
            rs: String::new(),
            node: String::new(),
            e: scope.event,
            eobj: printable::line(&scope.object).into_owned(),
            ep: (scope.epoch.0 > 0).then_some(Timestamp { time: scope.epoch.0, increment: scope.epoch.1 }),
            opid: scope.opid,
            // One event is one line, whatever the names in it hold.
            msg: printable::line(format!("{}{}", line.message, line.fields).trim_end()).into_owned(),
        };
        self.text.write(&now, &entry);
        if is_ours(event.metadata()) {
            self.db.push(entry);
        }
    }
}
