//! The replica set that is restored, as a plan sees it.

use super::namespaces::is_droppable;
use crate::model::names::series_name;
use crate::mongo::{capabilities::Capabilities, version::Version};
use crate::raw::text;
use bson::Uuid;
use std::fmt;

/// What the restored replica set looks like before anything is changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub server: Version,
    /// `featureCompatibilityVersion`, empty if unknown.
    pub fcv: String,
    pub namespaces: Vec<TargetNamespace>,
}

impl Target {
    #[must_use]
    pub fn able(&self) -> Capabilities {
        Capabilities::of(self.server, &self.fcv)
    }
}

/// A collection, view or time series that exists on the target; bucket collections are listed too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetNamespace {
    pub db: String,
    pub coll: String,
    pub uuid: Option<Uuid>,
}

impl fmt::Display for TargetNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, text::shown(&self.coll))
    }
}

impl TargetNamespace {
    /// Whether this is a users' namespace, or the bucket collection of a users' time series.
    #[must_use]
    pub fn is_droppable(&self) -> bool {
        is_droppable(&self.db, series_name(&self.coll))
    }

    /// Whether its name is valid UTF-8. This program can neither restore other namespaces nor change them.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !text::is_made_of_bytes(&self.coll)
    }
}
