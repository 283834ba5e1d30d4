//! The kinds of storage, and what is known of each of them without its driver.

/// A kind of storage that settings may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Filesystem,
    S3,
    Minio,
    Gcs,
    Azure,
    Oss,
    Oci,
    Blackhole,
}

/// One row of the table of kinds.
struct Row {
    /// The value of `type`, and the name of the document with the settings.
    name: &'static str,
    /// The original's word for the kind in what it prints.
    label: &'static str,
    /// The default size limit of an object in GiB (docs/format.md A.1.2).
    limit_gib: u64,
    /// The settings that distinguish a place from others of the same kind (docs/format.md C.3.2), in the order in which
    /// `markedStorages` has them (C.3.3).
    place: &'static [&'static str],
    /// How the place is printed: the scheme, unless the first value has one, and the settings that follow.
    address: (&'static str, &'static [&'static str]),
}

impl StoreKind {
    /// All kinds, in the order in which people are told of them.
    pub const ALL: [Self; 8] =
        [Self::Filesystem, Self::S3, Self::Minio, Self::Gcs, Self::Azure, Self::Oss, Self::Oci, Self::Blackhole];

    const fn row(self) -> Row {
        match self {
            Self::Filesystem => {
                Row { name: "filesystem", label: "FS", limit_gib: 5018, place: &["path"], address: ("", &["path"]) }
            }
            Self::S3 => Row {
                name: "s3",
                label: "S3",
                limit_gib: 5018,
                place: &["region", "endpointUrl", "bucket", "prefix"],
                address: ("s3://", &["endpointUrl", "bucket", "prefix"]),
            },
            Self::Minio => Row {
                name: "minio",
                label: "Minio",
                limit_gib: 5018,
                place: &["region", "endpoint", "bucket", "prefix"],
                address: ("", &["endpoint", "bucket", "prefix"]),
            },
            Self::Gcs => Row {
                name: "gcs",
                label: "GCS",
                limit_gib: 5018,
                place: &["bucket", "prefix"],
                address: ("gs://", &["bucket", "prefix"]),
            },
            Self::Azure => Row {
                name: "azure",
                label: "Azure",
                limit_gib: 194_560,
                place: &["endpointUrl", "prefix", "account", "container"],
                address: ("azure://", &["account", "container", "prefix"]),
            },
            Self::Oss => Row {
                name: "oss",
                label: "OSS",
                limit_gib: 48_700,
                place: &["region", "endpointUrl", "bucket", "prefix"],
                address: ("oss://", &["endpointUrl", "bucket", "prefix"]),
            },
            Self::Oci => Row {
                name: "oci",
                label: "OCI",
                limit_gib: 10_138,
                place: &["region", "bucket", "prefix", "namespace"],
                address: ("oci://", &["namespace", "bucket", "prefix"]),
            },
            Self::Blackhole => {
                Row { name: "blackhole", label: "blackhole", limit_gib: 5018, place: &[], address: ("", &[]) }
            }
        }
    }

    /// The kind that `type` names.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    #[must_use]
    pub fn label(self) -> &'static str {
        self.row().label
    }

    #[must_use]
    pub fn limit_gib(self) -> u64 {
        self.row().limit_gib
    }

    #[must_use]
    pub fn place(self) -> &'static [&'static str] {
        self.row().place
    }

    #[must_use]
    pub fn address(self) -> (&'static str, &'static [&'static str]) {
        self.row().address
    }

    /// The names of all kinds, for people.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_names_only() {
        for kind in StoreKind::ALL {
            assert_eq!(StoreKind::of(kind.name()), Some(kind));
        }
        assert_eq!([StoreKind::of(""), StoreKind::of("S3"), StoreKind::of("tape")], [None; 3]);
        assert_eq!(StoreKind::names(), "filesystem, s3, minio, gcs, azure, oss, oci, blackhole");
    }
}
