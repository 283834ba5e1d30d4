//! Listings that lack nothing of what is looked for.

use super::{ObjectInfo, Result, Storage, check_name};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;

/// Objects asked for at a time.
const AT_ONCE: usize = 8;

/// Everything below the folder `prefix` that its listing shows, and those of `names` that it hides but that are there:
/// names that end as temporary files of [`super::fs`] do (`.tmp`), or as pieces of [`super::wrap::split`] (`.pbmpart.1`).
/// Uncompressed collections can have such names.
///
/// # Errors
/// As [`Storage::list`] and [`Storage::stat`]; that an object is missing is none.
pub async fn list_with(
    store: &dyn Storage,
    prefix: &str,
    names: impl IntoIterator<Item = String>,
) -> Result<Vec<ObjectInfo>> {
    let mut objects: Vec<ObjectInfo> = store.list(prefix).try_collect().await?;
    let shown: HashSet<&str> = objects.iter().map(|object| object.name.as_str()).collect();
    let hidden: HashSet<String> =
        names.into_iter().filter(|name| !shown.contains(name.as_str()) && check_name(name).is_ok()).collect();
    let found: Vec<_> = stream::iter(hidden)
        .map(|name| async move {
            match store.stat(&name).await {
                Ok(object) => Ok(Some(object)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    objects.extend(found.into_iter().flatten());
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::super::{
        fs::{Buffers, FsStorage},
        wrap::split::{SMALLEST_LIMIT, Split},
        write_all,
    };
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_listings_hide_is_found_by_its_name() {
        let root = std::env::temp_dir().join(format!("pbmbox-present-{:08x}", rand::random::<u32>()));
        let inner = FsStorage::open(&root, Buffers::default()).await.expect("open");
        let store = Split::new(Arc::new(inner), SMALLEST_LIMIT);
        for (name, content) in [("b/rs0/a.b", "1"), ("b/rs0/a.b.tmp", "22"), ("b/rs0/a.c.pbmpart.7", "333")] {
            write_all(&store, name, content).await.expect("put");
        }
        let wanted = ["a.b", "a.b.tmp", "a.c.pbmpart.7", "a.missing", "a.b/../c"].map(|name| format!("b/rs0/{name}"));
        let found = list_with(&store, "b/rs0", wanted).await.expect("list");
        let size = |name: &str| found.iter().find(|it| it.name == format!("b/rs0/{name}")).map(|it| it.size);
        assert_eq!([size("a.b"), size("a.b.tmp"), size("a.c.pbmpart.7")], [Some(1), Some(2), Some(3)]);
        assert_eq!([size("a.missing"), size("a.b/../c")], [None, None]);
        std::fs::remove_dir_all(root).expect("clean up");
    }
}
