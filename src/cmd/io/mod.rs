//! What all subcommands share: connection, arguments, output and errors.

pub mod agents;
pub mod ask;
pub mod context;
pub mod error;
pub mod examples;
pub mod fit;
pub mod launch;
pub mod names;
pub mod offered_values;
pub mod output;
pub mod physical;
pub mod profiles;
pub mod progress;
pub mod remapping;
pub mod selection;
pub mod storage;
pub mod times;
pub mod units;
