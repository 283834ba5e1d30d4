//! Helpers for documents written by several programs: missing, `null` and empty mean the same when reading.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default. Use with `#[serde(default, deserialize_with = "null_default")]`.
pub fn null_default<'de, D, T>(de: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(de)?.unwrap_or_default())
}

/// True for a zero value that is left out when writing.
#[must_use]
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// True for `Timestamp(0, 0)`, which is left out when writing.
#[must_use]
pub fn is_zero_ts(value: &bson::Timestamp) -> bool {
    *value == zero_ts()
}

/// Default of a timestamp field: `Timestamp(0, 0)`.
#[must_use]
pub fn zero_ts() -> bson::Timestamp {
    bson::Timestamp { time: 0, increment: 0 }
}

/// Reads a missing or `null` timestamp as `Timestamp(0, 0)`.
pub fn null_ts<'de, D: Deserializer<'de>>(de: D) -> Result<bson::Timestamp, D::Error> {
    Ok(Option::<bson::Timestamp>::deserialize(de)?.unwrap_or_else(zero_ts))
}
