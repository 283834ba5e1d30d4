//! Stores collections as compressed objects, and loads them back.
//!
//! The dump, in reading order: [`dump`] stores every namespace; [`namespaces`] and [`routing_tables`] list them, [`source`] reads
//! the documents of one, with [`reply`] for the server's batches.
//!
//! The load: [`load`] inserts the stored objects, and [`unpack`] those of a mongodump archive. [`load_options`] has
//! their parameters and [`load_result`] their results. [`stored`] reads an object back, [`insert_workers`] cuts it into
//! batches, [`batch`] builds an insert and [`insert`] sends it.
//!
//! Both: [`budget`] limits the memory.

pub mod batch;
pub mod budget;
pub mod dump;
pub mod insert;
pub mod insert_workers;
pub mod load;
pub mod load_options;
pub mod load_result;
pub mod namespaces;
pub mod reply;
pub mod routing_tables;
pub mod source;
pub mod stored;
pub mod unpack;
