//! Version numbers of servers and of the program that wrote a backup.

use std::fmt;

/// A version `major.minor.patch`. Anything after a `-` is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `6.0.5`, `v2.15.0`, `8.0.4-1` or `7.0`. Returns `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        let version = Self::new(parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
        parts.next().is_none().then_some(version)
    }

    /// Returns `major.minor` as a pair, to compare release series.
    #[must_use]
    pub fn series(self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let good = [("2.15.0", (2, 15, 0)), ("v1.8.1", (1, 8, 1)), ("8.0.4-1", (8, 0, 4)), ("6.0", (6, 0, 0))];
        for (text, (major, minor, patch)) in good {
            assert_eq!(Version::parse(text), Some(Version::new(major, minor, patch)), "{text}");
        }
        for bad in ["", "x", "2", "2.", "2.x.1", "1.2.3.4"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
        assert!(Version::new(2, 4, 0) < Version::new(2, 15, 0));
    }
}
