//! What the programs of cargo-fuzz share: they call the checks of `pbmbox::fuzz`, and count the memory that a check takes.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A check may take this much, and [`PER_BYTE`] for each byte of its input. Codecs keep blocks and pieces of some MiB.
const MOST: usize = 96 << 20;
const PER_BYTE: usize = 512;

/// Checks one input.
///
/// # Panics
/// A property does not hold, or the check takes too much memory.
pub fn run(target: &str, input: &[u8]) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    pbmbox::fuzz::run(target, input);
    let used = PEAK.load(Relaxed).saturating_sub(before);
    assert!(used <= MOST + PER_BYTE * input.len(), "{used} bytes of memory for {} bytes of input", input.len());
}

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(old, layout) }
    }
}
