//! Collections to compressed objects and back.

pub mod batch;
pub mod budget;
pub mod catalog;
pub mod dump;
pub mod insert;
pub mod insert_workers;
pub mod load;
pub mod reply;
pub mod routing_tables;
pub mod source;
pub mod stored;
pub mod unpack;
