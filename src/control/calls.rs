//! The parameters and results of calls on a control collection.

use bson::Document;

/// Selects the documents to read, their order and their fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pub filter: Document,
    pub sort: Option<Document>,
    pub fields: Option<Document>,
}

impl From<Document> for Query {
    fn from(filter: Document) -> Self {
        Self { filter, ..Self::default() }
    }
}

impl Query {
    /// Reads only these fields.
    pub fn only(self, fields: Document) -> Self {
        Self { fields: Some(fields), ..self }
    }

    pub fn sorted(self, sort: Document) -> Self {
        Self { sort: Some(sort), ..self }
    }
}

/// The result of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Updated {
    pub matched: u64,
    pub modified: u64,
    /// Whether a document was inserted because none matched.
    pub inserted: bool,
}

impl From<mongodb::results::UpdateResult> for Updated {
    fn from(done: mongodb::results::UpdateResult) -> Self {
        Self { matched: done.matched_count, modified: done.modified_count, inserted: done.upserted_id.is_some() }
    }
}
