//! Calls every function with its corpus and with changed copies of it. The copies are the same in each run.

use super::{TARGETS, run};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    process::Command,
};

/// The number of changed copies for each target, unless [`COPIES`] sets another number.
const CHANGED: u64 = 600;
const COPIES: &str = "PBMBOX_FUZZ_COPIES";
/// Longer inputs, and inputs whose names begin with `slow-`, are checked only without changes.
const LONGEST_CHANGED: usize = 16 << 10;

/// Returns the files of a target's corpus, sorted by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let file = file.expect("an entry of the folder");
            (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).expect("a file of the corpus"))
        })
        .collect();
    inputs.sort();
    assert!(inputs.len() > 2, "the corpus of '{target}' is there");
    inputs
}

fn corpus_and_changed_copies(target: &str) {
    let inputs = corpus(target);
    for (name, input) in &inputs {
        run_and_name(target, name, input);
    }
    let mut chance = Chance(target.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte)));
    let is_quick = |name: &str, input: &[u8]| input.len() <= LONGEST_CHANGED && !name.starts_with("slow-");
    let quick: Vec<&(String, Vec<u8>)> = inputs.iter().filter(|(name, input)| is_quick(name, input)).collect();
    let copies = std::env::var(COPIES).map_or(CHANGED, |number| number.parse().expect("a number of copies"));
    for number in 0..copies {
        let (name, input) = quick[chance.below(quick.len())];
        let (_, other) = quick[chance.below(quick.len())];
        run_and_name(target, &format!("{name}, changed copy {number}"), &chance.changed(input, other));
    }
}

/// If an input fails, names and prints it, so that it can become a file of the corpus.
fn run_and_name(target: &str, name: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(target, input))) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("target '{target}' fails on {name}; its bytes, for `xxd -r -p`:\n{hex}");
        resume_unwind(panic);
    }
}

/// The splitmix64 generator. It gives the same numbers on every machine and with every release of a library.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("below a usize")
    }

    /// Makes one to four changes, one after the other.
    fn changed(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const UNUSUAL: [u8; 12] = [0, 1, 4, 5, 0x7f, 0x80, 0xff, b'"', b'.', b'*', b'-', b'\n'];
        let at = self.below(bytes.len() + 1);
        let to = at + self.below((bytes.len() - at).min(64) + 1);
        match self.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = UNUSUAL[self.below(UNUSUAL.len())],
            2 => drop(bytes.drain(at..to)),
            3 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => bytes.truncate(at),
            5 => {
                let from = self.below(other.len() + 1);
                let end = from + self.below((other.len() - from).min(256) + 1);
                bytes.splice(at..to, other[from..end].iter().copied());
            }
            _ => bytes.insert(at, UNUSUAL[self.below(UNUSUAL.len())]),
        }
    }
}

#[test]
fn archives() {
    corpus_and_changed_copies("archive");
}

#[test]
fn metadata_files_of_backups() {
    corpus_and_changed_copies("backup_json");
}

#[test]
fn compressed_streams() {
    corpus_and_changed_copies("compress");
}

#[test]
fn configurations() {
    corpus_and_changed_copies("config");
}

#[test]
fn extended_json() {
    corpus_and_changed_copies("extended_json");
}

#[test]
fn names_of_objects() {
    corpus_and_changed_copies("layout");
}

#[test]
fn archives_of_old_backups() {
    corpus_and_changed_copies("legacy");
}

#[test]
fn descriptions_of_collections() {
    corpus_and_changed_copies("metadata");
}

#[test]
fn namespaces_and_times() {
    corpus_and_changed_copies("names");
}

#[test]
fn ranges_of_the_oplog() {
    corpus_and_changed_copies("oplog");
}

#[test]
fn documents() {
    corpus_and_changed_copies("raw");
}

/// The memory of a whole process is counted, so the inputs are checked in a process of their own.
#[test]
fn memory_stays_within_limits() {
    const CHILD: &str = "PBMBOX_FUZZ_MEMORY";
    const MOST: u64 = 160 << 20;
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("this program");
        let name = concat!(module_path!(), "::memory_stays_within_limits").split_once("::").expect("a crate").1;
        let output = Command::new(program).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output();
        let output = output.expect("this program runs");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
        return;
    }
    for target in TARGETS {
        for (name, input) in corpus(target.name) {
            fs::write("/proc/self/clear_refs", "5").expect("the peak begins anew");
            let before = peak();
            run(target.name, &input);
            let used = peak() - before;
            assert!(used < MOST, "target '{}' takes {used} bytes for {name}, which has {}", target.name, input.len());
        }
    }
}

/// Returns the largest memory use of this process so far.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the state of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim().strip_suffix(" kB").and_then(|number| number.trim().parse::<u64>().ok()).expect("a number") * 1024
}

#[test]
fn every_target_has_a_program() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest");
    for target in TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{}\"\npath = \"fuzz_targets/{0}.rs\"", target.name)),
            "{}",
            target.name
        );
        let program = fs::read_to_string(root.join(format!("fuzz_targets/{}.rs", target.name))).expect("a program");
        assert!(program.contains(&format!("\"{}\"", target.name)), "{program}");
    }
    assert_eq!(manifest.matches("\n[[bin]]").count(), TARGETS.len());
}
