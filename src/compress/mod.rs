//! The codecs of data objects, as streams (docs/format.md B).
//!
//! Every object is one independently compressed stream. Encoding and decoding run on a blocking thread each, behind
//! bounded channels, so that they neither hold up the async threads nor collect data: a few MiB are on their way.
//!
//! Reading is strict: a stream that ends too early, is followed by something else, or fails its own checksums is an
//! error. What the original's reader demands of a writer (docs/format.md B.2) is kept where each codec is set up.

mod encode;
mod pipe;
mod s2;

pub use encode::{Encoder, Pass, check_level, encoder, level_remark};
pub use pipe::{decode, encode};
