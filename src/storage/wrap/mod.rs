//! Storage over another storage: what every driver needs and none should know.
//!
//! From the outside in: [`guarded`] insists on the storage's mark, [`measure`] counts what callers ask for, [`split`] cuts objects over the size limit, [`retry`]
//! repeats what failed in passing, the driver. [`faulty`] breaks on purpose, for tests.

pub mod faulty;
pub mod guarded;
pub mod limit;
pub mod measure;
pub mod retry;
pub mod split;
