//! Comments and documents that name a section of `docs/format.md` or a row of `docs/features.md` name one that exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Types of the files that are searched.
const TYPES: [&str; 7] = ["rs", "sh", "md", "toml", "yml", "conf", "spec"];
/// Folders with files that others have made.
const NOT_SEARCHED: [&str; 2] = ["target", "fixtures"];

/// What can be named.
struct Known {
    /// Numbers of the sections of `docs/format.md`.
    sections: BTreeSet<String>,
    /// Numbers of the rows of `docs/features.md`, and `group N`.
    features: BTreeSet<String>,
}

impl Known {
    fn new(format: &str, features: &str) -> Self {
        let mut sections = BTreeSet::new();
        for heading in format.lines().filter(|line| line.starts_with('#') && line.contains("<a id=")) {
            let (number, title) =
                heading.split_once("<a id=\"").and_then(|(_, rest)| rest.split_once("\"></a>")).expect(heading);
            assert!(title.starts_with(number), "the anchor is not the number: {heading}");
            assert!(sections.insert(number.to_owned()), "there are two sections {number}");
        }
        let mut rows = BTreeSet::new();
        for line in features.lines() {
            if let Some((number, _)) = line.strip_prefix("| ").and_then(|row| row.split_once(' ')) {
                rows.insert(number.to_owned());
            } else if let Some((number, _)) = line.strip_prefix("## ").and_then(|heading| heading.split_once('.')) {
                rows.insert(format!("group {number}"));
            }
        }
        Self { sections, features: rows }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn known() -> Known {
    let read = |name: &str| fs::read_to_string(root().join("docs").join(name)).expect(name);
    Known::new(&read("format.md"), &read("features.md"))
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if !name.starts_with('.') && !NOT_SEARCHED.contains(&name.as_str()) {
                files(&path, into);
            }
        } else if path.extension().is_some_and(|it| TYPES.iter().any(|wanted| it == *wanted)) {
            into.push(path);
        }
    }
}

/// The comments of a file as one text, because a comment may end its line between a document and its section.
fn comments(path: &Path, text: &str) -> String {
    let mark = match path.extension().and_then(|it| it.to_str()) {
        Some("rs") => "//",
        Some("md") => "",
        _ => "#",
    };
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(mark));
    lines.map(|line| line.trim_start_matches(['/', '!', '#']).trim()).collect::<Vec<_>>().join(" ")
}

/// The number of a section at the beginning of a text, such as `C.11.1`.
fn section(text: &str) -> Option<&str> {
    let letter = text.chars().next().filter(char::is_ascii_uppercase)?;
    let mut end = letter.len_utf8();
    while let Some(rest) = text[end..].strip_prefix('.') {
        match rest.chars().take_while(char::is_ascii_digit).count() {
            0 => break,
            digits => end += 1 + digits,
        }
    }
    let ends = !text[end..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
    (ends && end > 1).then_some(&text[..end])
}

/// All numbers of sections in a text, after the name of the document or alone.
fn sections(text: &str) -> Vec<&str> {
    let begins = |at: usize| !text[..at].ends_with(|before: char| before.is_alphanumeric() || "_.`".contains(before));
    let starts = text.char_indices().filter(|(at, letter)| ('A'..='H').contains(letter) && begins(*at));
    starts.filter_map(|(at, _)| section(&text[at..])).collect()
}

/// What follows each mention of a document.
fn after<'a>(text: &'a str, document: &str) -> Vec<&'a str> {
    text.match_indices(document).map(|(at, _)| text[at + document.len()..].trim_start()).collect()
}

/// A row or a group of the features at the beginning of a text.
fn feature(text: &str) -> Option<String> {
    let (group, rest) = text.strip_prefix("group ").map_or(("", text), |rest| ("group ", rest));
    let number: String = rest.chars().take_while(|it| it.is_ascii_digit() || *it == '.').collect();
    let number = number.trim_end_matches('.');
    (!number.is_empty()).then(|| format!("{group}{number}"))
}

/// Everything in a file that names what does not exist, and how many sections and rows it names.
fn dead(path: &Path, text: &str, known: &Known) -> (Vec<String>, usize) {
    let (comments, mut wrong) = (comments(path, text), Vec::new());
    let (alone, rows) = (sections(&comments), after(&comments, "features.md"));
    let rows: Vec<String> = rows.into_iter().filter_map(feature).collect();
    let count = alone.len() + rows.len();
    // A section behind the name of the document may have any letter.
    let mut cited: BTreeSet<&str> = alone.into_iter().collect();
    cited.extend(after(&comments, "format.md").into_iter().filter_map(section));
    let sections = cited.into_iter().filter(|it| !known.sections.contains(*it));
    wrong.extend(sections.map(|it| format!("docs/format.md has no {it}")));
    let rows = rows.iter().filter(|it| !known.features.contains(*it));
    wrong.extend(rows.map(|it| format!("docs/features.md has no {it}")));
    let in_docs = path.starts_with("docs");
    for document in ["format.md", "features.md"] {
        for (at, _) in text.match_indices(document).filter(|_| !in_docs) {
            let before = &text[..at];
            if !before.ends_with("docs/") && !before.ends_with(|it: char| it.is_alphanumeric() || "-_\"".contains(it)) {
                wrong.push(format!("{document} is in docs/"));
            }
        }
    }
    let elsewhere = ["sp", "ec/"].concat();
    for (at, _) in text.match_indices(&elsewhere) {
        if !text[..at].ends_with(|it: char| it.is_alphanumeric() || "-_.".contains(it)) {
            wrong.push(format!("'{elsewhere}' is not in this repository"));
        }
    }
    (wrong.into_iter().map(|why| format!("{}: {why}", path.display())).collect(), count)
}

#[test]
fn cited_sections_and_rows_exist() {
    let known = known();
    let (mut paths, mut wrong, mut count) = (Vec::new(), Vec::new(), 0);
    files(root(), &mut paths);
    for path in paths {
        let text = fs::read_to_string(&path).expect("read a file");
        let (found, cited) = dead(path.strip_prefix(root()).expect("below the root"), &text, &known);
        wrong.extend(found);
        count += cited;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // There are about 100 in the code and 130 in the document itself.
    assert!(count > 150, "only {count} citations were found: is the search broken?");
}

#[test]
fn a_dead_citation_is_found() {
    let document = "# <a id=\"A\"></a>A. One\n## <a id=\"A.1\"></a>A.1 Two\n";
    let known = Known::new(document, "## 19. Agent\n| 19.8 | it | works | |\n");
    let format = ["docs/", "format.md"].concat();
    for (comment, wrong) in [
        (format!("//! See {format} A.1."), 0),
        (format!("//! See {format}\n//! A.1, and\n/// (A.2)."), 1),
        (format!("//! See {format} Z.1."), 1),
        ("/// Alone (A.1).".to_owned(), 0),
        ("/// Alone (A.1.7), and A.3-A.4.".to_owned(), 3),
        ("let text = \"A.9\";".to_owned(), 0),
        (["// docs/", "features.md 19.8 and docs/", "features.md group 19"].concat(), 0),
        (["// docs/", "features.md 19.9"].concat(), 1),
        (["// docs/", "features.md group 20"].concat(), 1),
        (["// packaging/", "features.md 19.8"].concat(), 1),
        (["// sp", "ec/", "format.md A.1"].concat(), 2),
    ] {
        let (found, _) = dead(Path::new("src/x.rs"), &comment, &known);
        assert_eq!(found.len(), wrong, "{comment}: {found:?}");
    }
}
