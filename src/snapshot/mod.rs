//! Collections to compressed objects and back.

pub mod batch;
pub mod budget;
pub mod catalog;
pub mod dump;
pub mod fill;
pub mod insert;
pub mod load;
pub mod reply;
pub mod routing;
pub mod source;
pub mod stored;
pub mod telling;
pub mod unpack;
