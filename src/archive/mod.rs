//! The metadata of a logical backup: namespaces with options, indexes, sizes and checksums; the list of files of a physical
//! backup; and the metadata file of the whole backup. Also mongodump's archive streams, the format of backups before 2.0 and of exports.

pub mod backup_json;
pub mod crc;
pub mod demux;
pub mod described;
pub mod extjson;
pub mod filelist;
pub mod frame;
pub mod json;
pub mod meta;
pub mod prelude;
