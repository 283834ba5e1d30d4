//! The list of namespaces at the beginning of an archive (docs/format.md A.7).

/// What stands before the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prelude {
    pub concurrent_collections: i32,
    /// Readers want it to be a version number.
    pub server_version: String,
    pub tool_version: String,
    pub entries: Vec<PreludeEntry>,
}

/// One namespace of the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreludeEntry {
    pub db: String,
    pub coll: String,
    /// Options, indexes and UUID as canonical Extended JSON; empty for the oplog.
    pub metadata: String,
    /// `collection`, `view`, `timeseries`; empty in archives of old tools.
    pub kind: String,
}
