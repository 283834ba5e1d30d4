//! Listings in which pieces are one object.

use super::Split;
use crate::storage::{ObjectInfo, Result};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use std::collections::HashMap;

/// Splits `<name>.pbmpart.<digits>` into name and number.
pub(super) fn parse(name: &str) -> Option<(&str, u64)> {
    let (base, number) = name.rsplit_once(".pbmpart.")?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (digits && !base.is_empty()).then(|| number.parse().ok().map(|number| (base, number)))?
}

/// An object whose pieces come in any order.
#[derive(Default)]
struct Pieces {
    has_first: bool,
    size: u64,
}

/// Adds pieces to their objects.
///
/// Objects that are too small to have pieces pass at once; the others wait until the listing's end, so the memory
/// needed grows with the number of *large* objects only. Pieces without a first one come as an object of that name;
/// pieces left beside a small object are not shown.
pub(super) fn fold<'a>(
    store: &'a Split,
    listing: BoxStream<'a, Result<ObjectInfo>>,
) -> BoxStream<'a, Result<ObjectInfo>> {
    let start = (Some(listing), HashMap::<String, Pieces>::new());
    stream::try_unfold(start, async move |(listing, mut held)| {
        let Some(mut listing) = listing else { return Ok(None) };
        while let Some(object) = listing.try_next().await? {
            if let Some((base, _)) = parse(&object.name) {
                held.entry(base.to_owned()).or_default().size += object.size;
            } else if store.may_continue(object.size) {
                let pieces = held.entry(object.name).or_default();
                pieces.has_first = true;
                pieces.size += object.size;
            } else {
                return Ok(Some((vec![object], (Some(listing), held))));
            }
        }
        let mut objects = Vec::with_capacity(held.len());
        for (name, pieces) in held {
            // Without a first piece in the listing there is none, or one that passed because it is small.
            if pieces.has_first || store.inner.stat(&name).await.is_err_and(|error| error.is_not_found()) {
                objects.push(ObjectInfo { name, size: pieces.size });
            }
        }
        Ok(Some((objects, (None, HashMap::new()))))
    })
    .map_ok(|objects| stream::iter(objects.into_iter().map(Ok)))
    .try_flatten()
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pieces() {
        assert_eq!(parse("a/b.s2.pbmpart.12"), Some(("a/b.s2", 12)));
        assert_eq!(parse("a.pbmpart.1.pbmpart.2"), Some(("a.pbmpart.1", 2)));
        for name in ["a/b", "a.pbmpart.", "a.pbmpart.x", "a.pbmpart.1x", ".pbmpart.1", "a.pbmpart.+1"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
