//! What a logical backup keeps beside the data: namespaces with options, indexes, sizes and checksums, and the
//! metadata file of the whole backup; and mongodump's archive streams, which backups before 2.0 are and exports become.

pub mod backup_json;
pub mod crc;
pub mod demux;
pub mod described;
pub mod extjson;
pub mod frame;
pub mod json;
pub mod meta;
pub mod prelude;
