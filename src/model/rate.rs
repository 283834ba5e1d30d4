//! Bytes per second, as people write them: `50MiB`, `800KiB`, `1.5GiB`.

use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU64, str::FromStr};

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u64);

/// Slower, parts of uploads would take so long that stores give up.
const SLOWEST: u64 = 64 << 10;

const UNITS: [(&str, u64); 10] = [
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
];

impl Rate {
    /// `None` is no limit.
    #[must_use]
    pub fn per_second(self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.0)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is no rate; write it per second with its unit, as 50MiB or 800KiB, or 0 for none");
        let lower = text.trim().to_ascii_lowercase();
        if lower == "0" {
            return Ok(Self(0));
        }
        let lower = lower.strip_suffix("/s").unwrap_or(&lower);
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (amount, unit) = lower.split_at(digits);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        let amount: f64 = amount.parse().map_err(|_| wrong())?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "positive"
        )]
        let bytes = (amount * *scale as f64) as u64;
        match bytes {
            0 => Ok(Self(0)),
            1..SLOWEST => Err(format!("'{text}' is too slow; give at least 64KiB, or 0 for no limit")),
            _ => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        match units.iter().find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => f.write_str("0"),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, bytes, shown) in [
            ("50MiB", 50 << 20, "50MiB"),
            ("50m", 50 << 20, "50MiB"),
            ("1.5 GiB/s", 3 << 29, "1536MiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("64k", 64 << 10, "64KiB"),
            ("0", 0, "0"),
            ("0MiB", 0, "0"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.0, rate.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate), "{text}");
        }
        for wrong in ["", "50", "-1MiB", "MiB", "1.2.3MiB", "5 parsecs", "63KiB", "1B", "∞"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
