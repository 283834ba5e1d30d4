//! Every page is in the table of contents, and every link of the documents leads to a file and a heading that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents that people read, as paths in the repository.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "packaging/README.md"]
            .iter()
            .map(PathBuf::from)
            .collect();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder)).expect("read docs").map(|it| it.expect("an entry")) {
            let path = folder.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines outside of fenced blocks, without code between backticks.
fn prose(text: &str) -> Vec<String> {
    let mut inside = false;
    let outside = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    });
    outside.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`")).collect()
}

/// Where the links of a document lead, in its order.
pub fn targets(text: &str) -> Vec<String> {
    let of_line = |line: String| -> Vec<String> {
        line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    };
    prose(text).into_iter().flat_map(of_line).collect()
}

/// The anchors of the headings, as mdBook and the forges make them, and those that are given by hand.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut inside = false;
    let headings = text.lines().filter(|line| {
        inside ^= line.starts_with("```");
        !inside && line.starts_with('#')
    });
    let anchor = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    let given = text.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    headings.map(anchor).chain(given).collect()
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let listed: BTreeSet<PathBuf> =
        targets(&read(Path::new("docs/SUMMARY.md"))).into_iter().map(|it| Path::new("docs").join(it)).collect();
    let pages = documents().into_iter().filter(|it| it.starts_with("docs") && !it.ends_with("SUMMARY.md"));
    assert_eq!(
        pages.filter(|it| !listed.contains(it)).collect::<Vec<_>>(),
        Vec::<PathBuf>::new(),
        "not in docs/SUMMARY.md"
    );
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        for target in targets(&read(&document)) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').map_or((target.as_str(), None), |(path, it)| (path, Some(it)));
            let file = if path.is_empty() { document.clone() } else { document.with_file_name("").join(path) };
            let there = repository().join(&file).exists();
            if !there || anchor.is_some_and(|it| !anchors(&read(&file)).contains(it)) {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these links lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn links_outside_of_the_book_are_not_relative() {
    let pages = documents().into_iter().filter(|it| it.starts_with("docs"));
    let leaves = |page: &Path, target: &str| {
        let depth = page.components().count() - 2;
        !target.contains("://") && target.matches("../").count() > depth
    };
    let wrong: Vec<String> = pages
        .flat_map(|page| {
            let found: Vec<String> = targets(&read(&page)).into_iter().filter(|it| leaves(&page, it)).collect();
            found.into_iter().map(move |target| format!("{}: {target}", page.display()))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "these links leave the book, which is read elsewhere too; name the file instead:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_readme_is_short() {
    assert!(
        read(Path::new("README.md")).lines().count() <= 150,
        "README.md has more than 150 lines; the guide takes the rest"
    );
}

#[test]
fn links_and_anchors_are_found() {
    let text = "# Users and roles\n[a](b.md#c-d), `[not](this)` and [e](f.md)\n```sh\n# no heading\n[g](h.md)\n```\n## What's new: `x`?\n";
    assert_eq!(targets(text), ["b.md#c-d", "f.md"]);
    assert_eq!(anchors(text), BTreeSet::from(["users-and-roles".to_owned(), "whats-new-x".to_owned()]));
}

#[test]
fn every_setting_is_in_the_guide() {
    let page = read(Path::new("docs/guide/settings.md"));
    let missing: Vec<&str> = pbmbox::config::schema::KEYS
        .iter()
        .map(|key| key.path)
        .filter(|path| !page.contains(&format!("| `{path}` |")))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "not in docs/guide/settings.md");
}
