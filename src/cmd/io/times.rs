//! Times as people give them, into cluster times.

use bson::Timestamp;
use jiff::{civil, tz::TimeZone};
use std::str::FromStr;

/// The forms, for help and errors.
pub const FORMS: &str = "2026-03-01T10:20:30 (UTC), with an offset such as +02:00 or Z, 2026-03-01 (midnight), -10m (so long \
                         ago), or T,I (Unix seconds and increment, as in 1772360430,5)";

/// Units of a time span, in seconds.
const UNITS: [(char, u32); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads a span of time such as `2w`, `36h` or `1h30m`, and returns seconds.
pub fn span(text: &str) -> Option<u32> {
    let mut sum: u32 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = rest[at..].chars().next()?;
        let seconds = UNITS.iter().find(|(letter, _)| *letter == unit)?.1;
        sum = sum.checked_add(rest[..at].parse::<u32>().ok()?.checked_mul(seconds)?)?;
        rest = &rest[at + 1..];
    }
    (!text.is_empty()).then_some(sum)
}

/// Reads a moment. A time without an increment is `T,0`, which is before every operation of that second; fractions of a
/// second, which cluster times don't have, are cut. A span before now is counted by the clock of this host.
///
/// # Errors
/// Anything else, with the forms that are known.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let refuse = || format!("'{text}' is not a time; give {FORMS}");
    if let Some((time, increment)) = text.split_once(',') {
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        return match (number(time), number(increment)) {
            (Some(time), Some(increment)) => Ok(Timestamp { time, increment }),
            _ => Err(refuse()),
        };
    }
    if let Some(ago) = text.strip_prefix('-') {
        let now = u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let time = span(ago).and_then(|ago| now.checked_sub(ago)).ok_or_else(refuse)?;
        return Ok(Timestamp { time, increment: 0 });
    }
    if text.as_bytes().get(4) != Some(&b'-') {
        return Err(refuse());
    }
    // `date` and people write a space in place of the `T`.
    let joined = text.replacen(' ', "T", 1);
    let text = if text.as_bytes().get(10) == Some(&b' ') { joined.as_str() } else { text };
    let at = match text.parse::<jiff::Timestamp>() {
        // Without an offset. The library reads and forgets what follows in other forms, so nothing may.
        Err(_) if text.bytes().all(|b| b.is_ascii_digit() || b"-:T.".contains(&b)) => text
            .parse::<civil::DateTime>()
            .and_then(|civil| civil.to_zoned(TimeZone::UTC))
            .map(|zoned| zoned.timestamp()),
        at => at,
    };
    let seconds = at.map_err(|_| refuse())?.as_second();
    let time = u32::try_from(seconds).map_err(|_| format!("'{text}' is outside of the years 1970 to 2106"))?;
    Ok(Timestamp { time, increment: 0 })
}

/// A time, perhaps relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    At(Timestamp),
    /// Seconds before now.
    Ago(u32),
}

impl Moment {
    /// The cluster time that it means.
    #[must_use]
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(ts) => ts,
            Self::Ago(seconds) => Timestamp { time: now.time.saturating_sub(seconds), increment: 0 },
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Minutes and seconds are not accepted: nobody deletes data that young, and some people write `m` for months.
        let ago = span(text.trim()).filter(|_| !text.contains(['m', 's']));
        match ago {
            Some(ago) => Ok(Self::Ago(ago)),
            None if text.trim().starts_with('-') => {
                Err(format!("'{text}': give how long ago without a sign, as in 2w, 30d or 12h"))
            }
            None => parse(text).map(Self::At).map_err(|why| format!("{why}, or how long ago: 2w, 30d, 12h")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, time, increment) in [
            ("2026-03-01T10:20:30", 1_772_360_430, 0),
            ("2026-03-01T10:20:30Z", 1_772_360_430, 0),
            ("2026-03-01T10:20:30.999", 1_772_360_430, 0),
            ("2026-03-01T10:20:30.999999999Z", 1_772_360_430, 0),
            ("2026-03-01T12:20:30+02:00", 1_772_360_430, 0),
            ("2026-03-01T05:50:30-04:30", 1_772_360_430, 0),
            ("2026-03-01", 1_772_323_200, 0),
            ("2026-03-01 10:20:30", 1_772_360_430, 0),
            ("2026-03-01 12:20:30+02:00", 1_772_360_430, 0),
            (" 1772360430,7 ", 1_772_360_430, 7),
            ("1772360430,0", 1_772_360_430, 0),
        ] {
            assert_eq!(parse(text), Ok(Timestamp { time, increment }), "{text}");
        }
        for bad in [
            "",
            "x",
            "yesterday",
            "1772360430",
            "1772360430,",
            ",1",
            "1,-1",
            "+1,1",
            "1,2,3",
            "2026-13-01T00:00:00",
            "2026-03-01T10:20:61",
            "20260301T102030",
            "10:20",
            "2026-03-01T10:20:30[Europe/Paris]",
            "2026-03-01T10:20:30 CET",
            "2026-03-01 10:20:30 CET",
            "2026-03-01  10:20:30",
            "-",
            "-10",
            "-m",
            "-10y",
            "-99999999w",
            "4294967296,1",
        ] {
            assert!(parse(bad).is_err_and(|why| why.contains("T,I")), "{bad}");
        }
        assert!(parse("1969-12-31T23:59:59").is_err_and(|why| why.contains("1970")));
    }

    #[test]
    fn times_in_all_their_forms() {
        let at = |time, increment| Ok(Moment::At(Timestamp { time, increment }));
        for (text, want) in [
            ("2026-03-01", at(1_772_323_200, 0)),
            ("2026-03-01T10:20:30", at(1_772_360_430, 0)),
            ("2026-03-01T10:20:30Z", at(1_772_360_430, 0)),
            ("2026-03-01T12:20:30+02:00", at(1_772_360_430, 0)),
            ("2026-03-01T10:20:30.999", at(1_772_360_430, 0)),
            ("1772360430,7", at(1_772_360_430, 7)),
            ("2026-03-01 10:20:30", at(1_772_360_430, 0)),
            ("2w", Ok(Moment::Ago(1_209_600))),
            ("1d12h", Ok(Moment::Ago(129_600))),
            ("30d", Ok(Moment::Ago(2_592_000))),
            ("0d", Ok(Moment::Ago(0))),
            ("12h", Ok(Moment::Ago(43_200))),
        ] {
            assert_eq!(text.parse(), want, "{text}");
        }
        for bad in [
            "",
            "d",
            "-1d",
            "1.5d",
            "1m",
            "90s",
            "1h30m",
            "2026",
            "2026-13-01",
            "1900-01-01",
            "1,2,3",
            "tomorrow",
            "99999999d",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_moment_may_be_so_long_ago() {
        let now = || u32::try_from(jiff::Timestamp::now().as_second()).expect("in range");
        for (text, seconds) in [("-10m", 600), ("-90s", 90), ("-1h30m", 5400), ("-2w", 1_209_600)] {
            let before = now();
            let at = parse(text).expect(text);
            assert!((before - seconds..=now() - seconds).contains(&at.time) && at.increment == 0, "{text}: {at}");
        }
    }

    #[test]
    fn ago_is_before_now() {
        let now = Timestamp { time: 1000, increment: 5 };
        assert_eq!(Moment::Ago(10).from(now), Timestamp { time: 990, increment: 0 });
        assert_eq!(Moment::Ago(2000).from(now).time, 0);
    }
}
