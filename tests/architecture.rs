//! The table in `src/lib.rs` is true, no files and no folders import each other in a circle, and every test file is run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One row of the table in `src/lib.rs`.
struct Row {
    layer: u8,
    module: String,
    /// Modules of the same layer that it may import.
    siblings: BTreeSet<String>,
}

/// The table of modules. Panics on a row that it can't read, so that no row is left out.
fn table(front_page: &str) -> Vec<Row> {
    let rows = front_page.lines().filter_map(|line| line.strip_prefix("//! | L"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let layer = cells[0].split(' ').next().and_then(|n| n.parse().ok()).expect("a layer's number");
        let (module, siblings) = cells[1].split_once('→').unwrap_or((cells[1], ""));
        let module = module.trim().strip_prefix("[`").and_then(|it| it.strip_suffix("`]")).expect("a module's link");
        let siblings = siblings.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect();
        Row { layer, module: module.to_owned(), siblings }
    })
    .collect()
}

/// Why `from` must not import `to`; `None` if it may.
fn objection(table: &[Row], from: &str, to: &str) -> Option<String> {
    let row = |name: &str| table.iter().find(|row| row.module == name);
    let (Some(own), Some(other)) = (row(from), row(to)) else {
        return Some(format!("{from} imports {to}: one of them is not in the table of src/lib.rs"));
    };
    match other.layer.cmp(&own.layer) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal if from == to || own.siblings.contains(to) => None,
        std::cmp::Ordering::Equal => {
            Some(format!("{from} imports {to} of its own layer, which its row does not allow"))
        }
        std::cmp::Ordering::Greater => Some(format!("{from} imports {to}, which is above it")),
    }
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

/// The code of a file without its tests: what tests of a module use is no matter of its design.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("read a file");
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

fn module_of(inside: &Path) -> String {
    inside.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn front_page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("read src/lib.rs")
}

#[test]
fn modules_import_what_the_front_page_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = table(&front_page());
    let declared: BTreeSet<String> = front_page()
        .lines()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.trim_end_matches(';').to_owned()))
        .collect();
    assert_eq!(declared, table.iter().map(|row| row.module.clone()).collect(), "modules and rows of the table");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut used) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let inside = file.strip_prefix(&root).expect("below src");
        let module = module_of(inside);
        // The executable's own files are above all: nothing can import them.
        if !declared.contains(&module) {
            continue;
        }
        for import in imports(&code_of(&file)).into_iter().filter(|import| declared.contains(import)) {
            if let Some(objection) = objection(&table, &module, &import) {
                wrong.insert(format!("{}: {objection}", inside.display()));
            }
            used.insert((module.clone(), import));
        }
    }
    for row in &table {
        for sibling in row.siblings.iter().filter(|sibling| !used.contains(&(row.module.clone(), (*sibling).clone()))) {
            wrong.insert(format!("the front page allows {} → {sibling}, which nothing needs", row.module));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn arrows_that_the_front_page_does_not_allow_are_found() {
    let table = table(
        "//! | L5 programs | [`cmd`] | |\n//! | L4 x | [`a`] → b | |\n//! | L4 x | [`b`] | |\n//! | L0 x | [`c`] | |",
    );
    let allowed = [("cmd", "a"), ("a", "b"), ("b", "c"), ("cmd", "c"), ("a", "a")];
    let denied = [("a", "cmd"), ("b", "a"), ("c", "b"), ("a", "unknown")];
    assert!(allowed.iter().all(|(from, to)| objection(&table, from, to).is_none()));
    assert!(denied.iter().all(|(from, to)| objection(&table, from, to).is_some()));
}

/// The module of each file as a path below the crate, and those of its imports that are files.
fn file_imports(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(root, &mut files);
    let module = |file: &Path| {
        let inside = file.strip_prefix(root).expect("below src").with_extension("");
        let names: Vec<_> =
            inside.iter().map(|it| it.to_string_lossy().into_owned()).filter(|it| it != "mod").collect();
        names.join("::")
    };
    let known: BTreeSet<String> = files.iter().map(|file| module(file)).collect();
    let of_file = |file: &PathBuf| {
        let own = module(file);
        let paths = use_paths(&code_of(file)).into_iter().filter_map(|path| resolved(&own, &path));
        // The longest part of the path that is a file. The `mod.rs` of a folder counts only for paths that name no other file
        // of it.
        let targets = paths.filter_map(|path| {
            let parts: Vec<&str> = path.split("::").collect();
            (1..=parts.len()).rev().map(|n| parts[..n].join("::")).find(|it| known.contains(it))
        });
        let related = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with("::"));
        let imports = targets.filter(|it| *it != own && !related(&own, it) && !related(it, &own)).collect();
        (own, imports)
    };
    files.iter().map(of_file).collect()
}

/// Every path of the `use` declarations, groups taken apart.
fn use_paths(code: &str) -> Vec<String> {
    fn apart(text: &str, before: &str, into: &mut Vec<String>) {
        let Some((head, rest)) = text.split_once('{') else {
            into.push(format!("{before}{}", text.split(" as ").next().unwrap_or_default().trim()));
            return;
        };
        let before = format!("{before}{}", head.trim());
        let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
        let (mut depth, mut from) = (0, 0);
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let part = inner[from..at].trim();
                    from = (at + 1).min(inner.len());
                    if !part.is_empty() {
                        apart(part, &before, into);
                    }
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    let code: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    for (at, _) in code.match_indices("use ") {
        let begins = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        if begins.is_empty() || begins.starts_with("pub") {
            let declaration = code[at + "use ".len()..].split(';').next().unwrap_or_default();
            apart(&declaration.replace('\n', " "), "", &mut found);
        }
    }
    found
}

/// A path of a `use` in the file of module `own`, from the crate on.
fn resolved(own: &str, path: &str) -> Option<String> {
    let mut base: Vec<&str> = own.split("::").collect();
    let mut parts = path.split("::").map(str::trim).peekable();
    match *parts.peek()? {
        "crate" => {
            parts.next();
            base.clear();
        }
        "self" => {
            parts.next();
        }
        "super" => {
            while parts.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        _ => return None,
    }
    Some(base.into_iter().chain(parts.filter(|it| *it != "self")).collect::<Vec<_>>().join("::"))
}

/// Groups of files each of which imports, over others, itself; sorted.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<BTreeSet<String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(at) = next.pop() {
            for to in imports.get(&at).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|from| (from, reach(from))).collect();
    let in_circle = reached.iter().filter(|(from, seen)| seen.contains(**from));
    in_circle
        .map(|(from, seen)| {
            seen.iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(*from))).cloned().collect()
        })
        .collect()
}

/// The imports between the parts of a folder, which are folders and files, for every folder. A part imports another one if
/// any file of it does.
fn part_imports(files: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in files.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        let (from, to): (Vec<&str>, Vec<&str>) = (from.split("::").collect(), to.split("::").collect());
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if common < from.len().min(to.len()) {
            parts.entry(from[..=common].join("::")).or_default().insert(to[..=common].join("::"));
        }
    }
    parts
}

/// The imports between the files of `src`.
fn own_imports() -> BTreeMap<String, BTreeSet<String>> {
    file_imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn assert_none(circles: &BTreeSet<BTreeSet<String>>, what: &str) {
    let named: Vec<String> =
        circles.iter().map(|circle| circle.iter().cloned().collect::<Vec<_>>().join(" ↔ ")).collect();
    assert!(named.is_empty(), "{what} that import each other in a circle:\n{}", named.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    assert_none(&circles(&own_imports()), "files");
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    assert_none(&circles(&part_imports(&own_imports())), "folders");
}

#[test]
fn a_circle_of_folders_is_found() {
    let imports = [("x::p::a", "x::q::b"), ("x::q::c", "x::p::d"), ("x::q::c", "x::e"), ("x::p::a", "x::p::d")];
    let imports = imports.map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])));
    let imports = imports.into_iter().fold(BTreeMap::<_, BTreeSet<_>>::new(), |mut all, (from, to)| {
        all.entry(from).or_default().extend(to);
        all
    });
    assert!(circles(&imports).is_empty(), "no file imports itself");
    let expected: BTreeSet<String> = ["x::p", "x::q"].map(str::to_owned).into();
    assert_eq!(circles(&part_imports(&imports)), BTreeSet::from([expected]));
}

#[test]
fn a_circle_of_files_is_found() {
    let file = |own: &str, code: &str| {
        (own.to_owned(), use_paths(code).iter().filter_map(|path| resolved(own, path)).collect::<BTreeSet<_>>())
    };
    let imports = BTreeMap::from([
        file("x::a", "use super::b;\nuse crate::x::d;"),
        file("x::b", "pub(super) use crate::{x::{c, d}, y};"),
        file("x::c", "// use super::d;\nuse crate::x::a as first;"),
        file("x::d", "use anyhow::Result;"),
    ]);
    let expected: BTreeSet<String> = ["x::a", "x::b", "x::c"].map(str::to_owned).into();
    assert_eq!(circles(&imports), BTreeSet::from([expected]));
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
