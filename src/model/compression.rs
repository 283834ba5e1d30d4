//! The codecs by name, as in `compression` fields and file suffixes (docs/format.md B.1).

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How data objects are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Pgzip,
    Snappy,
    Lz4,
    #[default]
    S2,
    Zstd,
}

impl Compression {
    pub const ALL: [Self; 7] = [Self::None, Self::Gzip, Self::Pgzip, Self::Snappy, Self::Lz4, Self::S2, Self::Zstd];

    /// The names of the compressions, in the same order.
    pub const NAMES: &[&str] = &["none", "gzip", "pgzip", "snappy", "lz4", "s2", "zstd"];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Pgzip => "pgzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::S2 => "s2",
            Self::Zstd => "zstd",
        }
    }

    /// Suffix of object names, with its dot; empty for [`Compression::None`].
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip | Self::Pgzip => ".gz",
            Self::Snappy => ".snappy",
            Self::Lz4 => ".lz4",
            Self::S2 => ".s2",
            Self::Zstd => ".zst",
        }
    }

    /// The codec of an oplog object with this extension (no dot). An unknown one means uncompressed.
    #[must_use]
    pub fn from_extension(ext: &str) -> Self {
        match ext {
            "gz" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "s2" => Self::S2,
            "zst" => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|c| c.as_str() == s)
            .ok_or_else(|| format!("unknown compression '{s}'; use one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}
