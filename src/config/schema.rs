//! The keys of the configuration. Reading files strictly, `--set`, reading a key, hiding secrets and adding defaults
//! all use this module. A key is described in [`key`](super::key), and the keys themselves are in
//! [`keys`](super::keys).

pub use super::key::{Key, Kind, Limits, Preset};
pub use super::keys::KEYS;

/// Returns the key with exactly this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether this is the last part of a secret key's path.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    KEYS.iter().filter(|key| key.secret).any(|key| key.path.rsplit('.').next() == Some(name))
}

/// Whether this is the last part of the path of a key that is not secret.
#[must_use]
pub fn is_open_name(name: &str) -> bool {
    KEYS.iter().filter(|key| !key.secret).any(|key| key.path.rsplit('.').next() == Some(name))
}

/// If `path` is an entry of a map, returns the key of the map and the entry's name: `backup.priority.127.0.0.1:27017`.
#[must_use]
pub fn find_entry(path: &str) -> Option<(&'static Key, &str)> {
    KEYS.iter().filter(|key| matches!(key.kind, Kind::MapF64 | Kind::MapText)).find_map(|key| {
        let entry = path.strip_prefix(key.path)?.strip_prefix('.')?;
        (!entry.is_empty()).then_some((key, entry))
    })
}

/// Returns the names directly under `group` (empty = top level) in their order. The result is empty if no such group
/// exists.
#[must_use]
pub fn children(group: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in KEYS {
        let rest = if group.is_empty() {
            Some(key.path)
        } else {
            key.path.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'))
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a value that the key accepts and that does not count as "not set".
    pub fn sample(key: &Key) -> &'static str {
        match (key.kind, key.limits, key.default.and_then(|default| default.value)) {
            (Kind::Text, Limits::OneOf(choices), _) => choices[0],
            (Kind::Text, Limits::Address, _) => "hunter2",
            (_, Limits::Mode { needed: 0o600, .. }, _) => "664",
            (_, Limits::Mode { .. }, _) => "775",
            (Kind::Rate, ..) => "1MiB",
            (_, Limits::ZeroOr(_, most), _) if most > 65536.0 => "65536",
            (Kind::Text, _, None) if key.path == "storage.type" => "blackhole",
            (Kind::Text, _, None) => "/hunter2",
            (_, _, Some(value)) if value != "0" => value,
            (Kind::Codec, ..) => "zstd",
            (Kind::MapF64 | Kind::MapText, ..) => "{}",
            (Kind::Bool, ..) => "true",
            _ => "7",
        }
    }

    #[test]
    fn every_default_is_a_value_that_is_taken() {
        for key in KEYS {
            if let Some(value) = key.default.and_then(|default| default.value) {
                let parsed = key.kind.parse(value).unwrap_or_else(|error| panic!("{}: {error}", key.path));
                assert_eq!(key.check(&parsed), Ok(()), "{}", key.path);
            }
        }
    }

    #[test]
    fn limits_are_kept() {
        for (path, good, bad) in [
            ("pitr.oplogSpanMin", "1440", "1441"),
            ("pitr.oplogSpanMin", "0", "-0.01"),
            ("pitr.maxLossSec", "5", "4.9"),
            ("backup.oplogSpanMin", "0", "-0.1"),
            ("restore.batchSize", "100000", "100001"),
            ("storage.filesystem.backupBuffSize", "0", "5"),
            ("storage.filesystem.maxObjSizeGB", "1", "0.5"),
            ("storage.s3.retryer.maxRetryDelay", "5m", "-5"),
            ("storage.s3.serverSideEncryption.sseAlgorithm", "aws:kms", "DES"),
            ("storage.s3.endpointUrl", "http://10.0.0.1:9000/", "ftp://h"),
            ("storage.s3.endpointUrl", "h.example", "http://"),
            ("storage.minio.endpoint", "h:9000", "h:99999"),
            ("storage.minio.endpoint", "[::1]:9000", "a b"),
            ("backup.priority", "{\"[::1]:27017\": 0}", "{\"h:1\": -1}"),
            ("backup.priority", "{}", "{\"h\": 1}"),
            ("storage.s3.endpointUrlMap", "{\"h:1\": \"https://x\"}", "{\"h:1\": \"ftp://x\"}"),
            ("storage.s3.bucket", "b", "a\nb"),
            ("storage.filesystem.fileMode", "0644", "666"),
            ("storage.filesystem.fileMode", "600", "750"),
            ("storage.filesystem.fileMode", "", "416"),
            ("storage.filesystem.dirMode", "770", "2770"),
            ("storage.filesystem.dirMode", "700", "777"),
        ] {
            let key = find(path).expect(path);
            let check = |text: &str| key.check(&key.kind.parse(text).expect(text));
            assert_eq!(check(good), Ok(()), "{path} {good}");
            assert!(check(bad).is_err(), "{path} {bad}");
        }
    }
}
