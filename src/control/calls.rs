//! What a call on a control collection asks for, and what it did.

use bson::Document;

/// Which documents are read, in which order, and which of their fields.
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

/// What an update did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Updated {
    pub matched: u64,
    pub modified: u64,
    /// No document matched, so one was inserted.
    pub inserted: bool,
}

impl From<mongodb::results::UpdateResult> for Updated {
    fn from(done: mongodb::results::UpdateResult) -> Self {
        Self { matched: done.matched_count, modified: done.modified_count, inserted: done.upserted_id.is_some() }
    }
}
