//! What a logical backup keeps beside the data: namespaces with options, indexes, sizes and checksums, and the
//! metadata file of the whole backup.

pub mod backup_json;
pub mod crc;
pub mod extjson;
mod json;
pub mod meta;
