//! Durations as the original writes them: `1h2m3.5s`, `300ms`.

use std::time::Duration;

/// Reads a sequence of numbers with units (`h`, `m`, `s`, `ms`, `us`, `ns`); `0` needs no unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration; write it as 1h30m, 90s or 1.5s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (amount, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        seconds += amount.parse::<f64>().map_err(|_| wrong())? * scale;
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        for (text, millis) in
            [("1h2m3.5s", 3_723_500), ("90s", 90_000), ("300ms", 300), ("0", 0), ("1.5m", 90_000), ("2h", 7_200_000)]
        {
            assert_eq!(parse(text).map(|it| it.as_millis()), Ok(millis), "{text}");
        }
        for bad in ["", "5", "s", "1x", "-1s", "1h5", "1..5s", "one"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
