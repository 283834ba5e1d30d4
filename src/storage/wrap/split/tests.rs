use super::super::faulty::{Call, Fault, Faulty};
use super::*;
use crate::storage::{contract, memory::Memory, read_all, write_all};
use bytes::Bytes;

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new())
}

fn over(memory: &Arc<Memory>, limit: u64) -> Split {
    Split::new(Arc::clone(memory) as Arc<dyn Storage>, limit)
}

async fn put(store: &Split, size: usize, piece: usize) -> Result<u64> {
    store.put("x", contract::pieces(contract::pattern(size, 9), piece), SizeHint(Some(size as u64))).await
}

async fn whole(store: &dyn Storage, name: &str) -> Bytes {
    read_all(store, name, usize::MAX).await.expect("get")
}

#[tokio::test]
async fn keeps_the_contract_in_one_piece() {
    contract::check(&over(&memory(), 1 << 30)).await;
}

/// Between the size of the objects that the suite replaces under a reader and that of its largest ones.
#[tokio::test]
async fn keeps_the_contract_in_pieces() {
    contract::check(&over(&memory(), 4 << 20)).await;
}

#[tokio::test]
async fn cuts_exactly_at_the_limit() {
    for (size, sizes) in [
        (0, &[0][..]),
        (1, &[1]),
        (99, &[99]),
        (100, &[100]),
        (101, &[100, 1]),
        (200, &[100, 100]),
        (201, &[100, 100, 1]),
        (1099, &[100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 99]),
    ] {
        for pieces in [1, 7, 100, 250, 5000] {
            let memory = memory();
            let store = over(&memory, 100);
            assert_eq!(put(&store, size, pieces).await.expect("put"), size as u64);
            let mut names = vec!["x".to_owned()];
            names.extend((1..sizes.len()).map(|number| format!("x.pbmpart.{number}")));
            let mut sorted = names.clone();
            sorted.sort();
            assert_eq!(memory.names(), sorted, "{size} bytes in pieces of {pieces}");
            for (name, size) in names.iter().zip(sizes) {
                assert_eq!(memory.stat(name).await.expect("stat").size, *size, "{name}");
            }
            assert!(whole(&store, "x").await == contract::pattern(size, 9), "{size} bytes in pieces of {pieces}");
            assert_eq!(store.stat("x").await.expect("stat").size, size as u64);
            let listed: Vec<_> = store.list("").try_collect().await.expect("list");
            assert_eq!(listed, [ObjectInfo { name: "x".to_owned(), size: size as u64 }]);
            store.copy("x", "y").await.expect("copy");
            assert!(whole(&store, "y").await == contract::pattern(size, 9), "copy of {size} bytes");
            store.delete("x").await.expect("delete");
            store.delete("y").await.expect("delete");
            assert_eq!(memory.names(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn ranges_cross_pieces() {
    let store = over(&memory(), 10);
    put(&store, 35, 8).await.expect("put");
    let all = contract::pattern(35, 9);
    for start in 0..38_usize {
        for end in start..40_usize {
            let stream = store.get("x", Some(start as u64..end as u64)).await.expect("get");
            let got = stream.try_collect::<Vec<_>>().await.expect("read").concat();
            assert!(got == all[start.min(35)..end.min(35)], "{start}..{end} gives {got:?}");
        }
    }
}

#[tokio::test]
async fn a_shorter_object_leaves_no_pieces_of_a_longer_one() {
    let memory = memory();
    let store = over(&memory, 100);
    for (size, left) in [(450, 5), (201, 3), (350, 4), (100, 1), (101, 2), (5, 1), (450, 5), (0, 1)] {
        put(&store, size, 64).await.expect("put");
        assert_eq!(memory.names().len(), left, "{:?} after {size} bytes", memory.names());
        assert!(whole(&store, "x").await == contract::pattern(size, 9));
    }
    put(&store, 450, 64).await.expect("put");
    write_all(&store, "small", "s").await.expect("put");
    store.copy("small", "x").await.expect("copy");
    assert_eq!(memory.names(), ["small", "x"]);
}

#[tokio::test]
async fn a_failed_put_removes_its_pieces_and_leaves_the_old_object() {
    for nth in 1..=4 {
        for fault in [Fault::FullAfter(0), Fault::FullAfter(30)] {
            let memory = memory();
            let faulty = Arc::new(Faulty::new(Arc::clone(&memory) as Arc<dyn Storage>));
            let store = Split::new(Arc::clone(&faulty) as Arc<dyn Storage>, 100);
            write_all(&store, "x", "old").await.expect("put");
            faulty.fail(Call::Put, nth, fault);
            let error = put(&store, 350, 64).await.expect_err("full");
            assert!(matches!(error, Error::Full { .. }), "put {nth}: {error:?}");
            assert_eq!((memory.names(), faulty.pending()), (vec!["x".to_owned()], 0), "put {nth}");
            assert_eq!(whole(&store, "x").await, "old");
        }
    }
}

#[tokio::test]
async fn a_torn_body_stores_nothing() {
    for size in [0, 50, 100, 101, 200, 230, 300] {
        let memory = memory();
        let store = over(&memory, 100);
        let torn = stream::once(async { Err(std::io::Error::other("torn on purpose")) });
        let body = contract::pieces(contract::pattern(size, 1), 30).chain(torn).boxed();
        let error = store.put("x", body, SizeHint(None)).await.expect_err("torn");
        let Error::Source { reason, .. } = error else { panic!("{size}: {error:?}") };
        assert!(reason.to_string().contains("torn on purpose"), "{size}: {reason}");
        assert_eq!(memory.names(), [""; 0], "after {size} bytes");
    }
}

#[tokio::test]
async fn a_dropped_put_removes_its_pieces() {
    let memory = memory();
    let store = over(&memory, 100);
    let body = contract::pieces(contract::pattern(350, 1), 50).chain(stream::pending()).boxed();
    let mut put = store.put("x", body, SizeHint(None));
    while memory.names().len() < 2 {
        assert!((&mut put).now_or_never().is_none(), "the body does not end");
    }
    assert_eq!(memory.names(), ["x.pbmpart.1", "x.pbmpart.2"]);
    assert!(store.stat("x").await.is_err_and(|error| error.is_not_found()), "visible too early");
    drop(put);
    while !memory.names().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn readers_see_no_object_that_is_not_complete() {
    let memory = memory();
    let store = over(&memory, 100);
    write_all(&store, "x", "old").await.expect("put");
    let (open, wait) = tokio::sync::oneshot::channel::<()>();
    let last =
        stream::once(async move { wait.await.map(|()| Bytes::from_static(b"end")).map_err(std::io::Error::other) });
    let mut put = store.put("x", contract::pieces(contract::pattern(250, 1), 50).chain(last).boxed(), SizeHint(None));
    while memory.names().len() < 2 {
        assert!((&mut put).now_or_never().is_none(), "the body waits");
    }
    assert_eq!(whole(&store, "x").await, "old");
    let listed: Vec<_> = store.list("").try_collect().await.expect("list");
    assert_eq!(listed, [ObjectInfo { name: "x".to_owned(), size: 3 }]);
    open.send(()).expect("the body waits");
    assert_eq!(put.await.expect("put"), 253);
    assert_eq!(whole(&store, "x").await.len(), 253);
}

#[tokio::test]
async fn pieces_without_a_first_one_can_be_found_and_deleted() {
    let memory = memory();
    let store = over(&memory, 100);
    put(&store, 350, 64).await.expect("put");
    memory.delete("x").await.expect("delete");
    let listed: Vec<_> = store.list("").try_collect().await.expect("list");
    assert_eq!(listed, [ObjectInfo { name: "x".to_owned(), size: 250 }]);
    assert!(store.stat("x").await.is_err_and(|error| error.is_not_found()));
    store.delete("x").await.expect("delete");
    assert_eq!(memory.names(), [""; 0]);
}

#[tokio::test]
async fn what_was_written_with_a_smaller_limit_is_read_whole() {
    let memory = memory();
    put(&over(&memory, 100), 350, 64).await.expect("put");
    // Both limits stand for values above the smallest one: only the reader's differs.
    let reader = over(&memory, 60);
    assert!(whole(&reader, "x").await == contract::pattern(350, 9));
    assert_eq!(reader.stat("x").await.expect("stat").size, 350);
}
