//! Finds the key that a user most likely meant.

use super::schema;

/// Returns the known key or group that is most similar to `path`, if it is similar enough. Typical mistakes are a wrong
/// letter, a different case, or a last name without its groups.
pub fn key(path: &str) -> Option<&'static str> {
    let wrong = path.to_lowercase();
    let known: Vec<&str> = schema::KEYS.iter().flat_map(|key| with_groups(key.path)).collect();
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
    if !path.contains('.')
        && let Some(found) = schema::KEYS.iter().map(|key| key.path).rev().find(|known| last(known) == wrong)
    {
        return Some(found);
    }
    let (distance, nearest) =
        known.into_iter().map(|known| (strsim::osa_distance(&wrong, &known.to_lowercase()), known)).min()?;
    // A short name may have one wrong letter, a long name several.
    (distance <= (last(path).len() / 3).clamp(1, 4)).then_some(nearest)
}

/// Returns `a`, `a.b` and `a.b.c` for `a.b.c`.
fn with_groups(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.match_indices('.').map(|(at, _)| &path[..at]).chain([path])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood() {
        for (wrong, meant) in [
            ("pitr.enabeld", Some("pitr.enabled")),
            ("PITR.Enabled", Some("pitr.enabled")),
            ("storage.filesytem.path", Some("storage.filesystem.path")),
            ("storage.filesystem.pth", Some("storage.filesystem.path")),
            ("backup.oplogSpan", Some("backup.oplogSpanMin")),
            ("restore.batchsize", Some("restore.batchSize")),
            ("indexCommitQuorum", Some("restore.indexCommitQuorum")),
            ("storag", Some("storage")),
            ("storage.s3.credentials.access_key_id", Some("storage.s3.credentials.access-key-id")),
            ("no.such.key", None),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(key(wrong), meant, "{wrong}");
        }
    }
}
