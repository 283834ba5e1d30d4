//! Times, sizes and tables as people read them.

use super::fit;
use crate::printable;
use jiff::tz::TimeZone;

/// The largest value that means "no time": records without a time hold 0, those of the original's agents 1.
const NO_TIME: i64 = 1;

/// `2026-11-21T00:44:31`, UTC, as in tables; empty where there is no time.
#[must_use]
pub fn table_time(unix: i64) -> String {
    if unix <= NO_TIME { String::new() } else { format_time(unix, "%Y-%m-%dT%H:%M:%S") }
}

/// `2026-11-21T00:44:31Z`.
#[must_use]
pub fn rfc3339(unix: i64) -> String {
    format_time(unix, "%Y-%m-%dT%H:%M:%SZ")
}

fn format_time(unix: i64, format: &str) -> String {
    let Ok(at) = jiff::Timestamp::from_second(unix) else { return unix.to_string() };
    TimeZone::UTC.to_datetime(at).strftime(format).to_string()
}

/// The name of a backup that starts now: whole seconds, UTC (docs/format.md A.1).
#[must_use]
pub fn backup_name() -> String {
    rfc3339(jiff::Timestamp::now().as_second())
}

/// The name of a restore that starts at `at`: nanoseconds, trailing zeros cut (docs/format.md A.1).
#[must_use]
pub fn restore_name(at: jiff::Timestamp) -> String {
    // The library prints 3, 6 or 9 digits, or as many as needed; only the latter is the original's form.
    let seconds = rfc3339(at.as_second());
    let nanos = format!("{:09}", at.subsec_nanosecond());
    let fraction = nanos.trim_end_matches('0');
    if fraction.is_empty() { seconds } else { format!("{}.{fraction}Z", seconds.trim_end_matches('Z')) }
}

/// Bytes with a binary unit: `429.7 KiB`.
#[must_use]
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// Seconds as `1h2m3s`, without what is 0 in front.
#[must_use]
pub fn span(seconds: i64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Formats a table with left-aligned columns, two spaces between them, indented by two, at most as wide as the terminal. The
/// first row is the heading.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let printable = |cell: &String| printable::line(cell).into_owned();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(printable).collect()).collect();
    fit::table(&rows, fit::stdout_width())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_originals_form() {
        let at = |nanos: i32| jiff::Timestamp::new(1_795_222_273, nanos).expect("in range");
        assert_eq!(restore_name(at(501_422_172)), "2026-11-21T00:51:13.501422172Z");
        assert_eq!(restore_name(at(695_198_230)), "2026-11-21T00:51:13.69519823Z");
        assert_eq!(restore_name(at(0)), "2026-11-21T00:51:13Z");
        assert_eq!(backup_name().len(), "2026-11-21T00:51:13Z".len());
    }

    #[test]
    fn a_time_that_is_none_is_not_1970() {
        assert_eq!((table_time(0), table_time(1)), (String::new(), String::new()));
        assert_eq!(table_time(1_795_222_273), "2026-11-21T00:51:13");
    }

    #[test]
    fn sizes_carry_their_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (439_991, "429.7 KiB"),
            (1 << 30, "1.0 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans_begin_with_their_largest_part() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (90, "1m30s"), (3600, "1h0m0s"), (93_784, "26h3m4s")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "  A     B\n  long  x");
        let forged = [vec!["a\n  done".to_owned(), "\u{1b}[2J".to_owned()]];
        assert_eq!(table(&forged), "  a\\n  done  \\u{1b}[2J", "a cell is within its line");
    }
}
