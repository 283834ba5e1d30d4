//! The list of namespaces at the beginning of an archive (docs/format.md A.7).

/// The part of an archive before the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prelude {
    pub concurrent_collections: i32,
    /// The server's version. Programs that read archives require a version number.
    pub server_version: String,
    pub tool_version: String,
    pub entries: Vec<PreludeEntry>,
}

/// One namespace of the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreludeEntry {
    pub db: String,
    pub coll: String,
    /// Options, indexes and UUID as canonical Extended JSON, or an empty text for the oplog.
    pub metadata: String,
    /// `collection`, `view` or `timeseries`. Empty in archives of old tools.
    pub kind: String,
}
