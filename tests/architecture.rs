//! The map in `src/lib.rs` is true: modules import from their own layer or from below, and every test file is run.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first.
const LAYERS: [&[&str]; 6] = [
    &["model", "raw", "log", "pages", "printable", "spelling"],
    &["rendezvous", "layout", "archive", "compress", "storage"],
    &["mongo", "topo", "control", "config"],
    &["snapshot", "oplog"],
    &["backup", "restore", "export", "pitr", "upkeep", "preflight", "speed"],
    &["cmd", "agent"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Names of modules behind `crate::`, also in `crate::{a::b, c}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        }
        let (mut depth, mut name, mut begins) = (0, String::new(), false);
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (c == '{' || c == ',') {
                begins = true;
                name.clear();
            } else if begins && (c.is_alphanumeric() || c == '_') {
                name.push(c);
            } else if begins && !name.is_empty() {
                found.push(std::mem::take(&mut name));
                begins = false;
            }
        }
        if !name.is_empty() {
            found.push(name);
        }
    }
    found
}

#[test]
fn modules_import_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    // They are above all: nothing can import them.
    let of_the_executable = fs::read_to_string(root.join("main.rs")).expect("read a file");
    for file in files {
        let inside = file.strip_prefix(&root).expect("below src");
        let module = inside.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&module.as_str()) || of_the_executable.contains(&format!("mod {module};")) {
            continue;
        }
        let own = layer(&module).unwrap_or_else(|| panic!("{module} is in no layer of tests/architecture.rs"));
        let text = fs::read_to_string(&file).expect("read a file");
        // What tests of a module use is no matter of its design.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for import in imports(text) {
            if layer(&import).is_some_and(|other| other > own) {
                wrong.push(format!("{} imports {import}, which is above it", inside.display()));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Elsewhere the lint denies it.
#[test]
fn unsafe_code_is_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("read Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"deny\""));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    files.retain(|file| fs::read_to_string(file).expect("read a file").contains("unsafe_code"));
    assert_eq!(files, [root.join("src/libc_names.rs")], "an exception to the lint");
}

#[test]
fn programs_do_not_know_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (own, other) in [("cmd", "agent"), ("agent", "cmd")] {
        let mut files = Vec::new();
        sources(&root.join(own), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("read a file");
            assert!(!imports(&text).contains(&other.to_owned()), "{} imports {other}", file.display());
        }
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let list = fs::read_to_string(root.join("main.rs")).expect("read tests/main.rs");
    for entry in fs::read_dir(&root).expect("read tests").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "main") {
            assert!(list.contains(&format!("mod {module};")), "tests/{name} is not in tests/main.rs");
        }
    }
}

/// rusoto builds and signs requests, behind one folder; its own HTTP client, with its old stack, is never made.
#[test]
fn rusoto_stays_in_its_folder_and_never_connects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let own = root.join("storage/s3");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("read a file");
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        assert!(file.starts_with(&own) || !code.contains("rusoto"), "{} knows rusoto", file.display());
        // All that would make a client with rusoto's own transport.
        for maker in ["S3Client::new(", "Client::shared(", "rusoto_core::HttpClient", "request::HttpClient"] {
            assert!(!code.contains(maker), "{} has {maker}", file.display());
        }
    }
}

/// One TLS library, and none in C.
#[test]
fn the_tree_has_one_tls_library() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("read Cargo.lock");
    let count = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    assert_eq!((count("rustls"), count("ring")), (1, 1));
    for name in ["openssl", "openssl-sys", "native-tls", "aws-lc-sys", "boring-sys"] {
        assert_eq!(count(name), 0, "{name} is in the tree");
    }
}
