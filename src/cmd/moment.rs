//! Times as people give them, into cluster times.

use bson::Timestamp;
use jiff::{civil, tz::TimeZone};
use std::str::FromStr;

/// The forms, for help and errors.
pub const FORMS: &str = "2026-03-01T10:20:30 (UTC), with an offset such as +02:00 or Z, 2026-03-01 (midnight), or T,I \
                         (Unix seconds and increment, as in 1772360430,5)";

/// Reads a moment. A time without an increment is `T,0`, which is before every operation of that second; fractions of a
/// second, which cluster times don't have, are cut.
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
    if text.as_bytes().get(4) != Some(&b'-') {
        return Err(refuse());
    }
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
        let ago = [('d', 86_400), ('h', 3_600)].into_iter().find_map(|(unit, seconds)| {
            let amount: u32 = text.trim().strip_suffix(unit)?.parse().ok()?;
            amount.checked_mul(seconds).map(Self::Ago)
        });
        match ago {
            Some(ago) => Ok(ago),
            None => parse(text).map(Self::At).map_err(|why| format!("{why}, or how long ago: 30d, 12h")),
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
            ("30d", Ok(Moment::Ago(2_592_000))),
            ("0d", Ok(Moment::Ago(0))),
            ("12h", Ok(Moment::Ago(43_200))),
        ] {
            assert_eq!(text.parse(), want, "{text}");
        }
        for bad in ["", "d", "-1d", "1.5d", "1m", "2026", "2026-13-01", "1900-01-01", "1,2,3", "tomorrow", "99999999d"]
        {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ago_is_before_now() {
        let now = Timestamp { time: 1000, increment: 5 };
        assert_eq!(Moment::Ago(10).from(now), Timestamp { time: 990, increment: 0 });
        assert_eq!(Moment::Ago(2000).from(now).time, 0);
    }
}
