//! The pages of the guide in the order of its table of contents, taken apart into what runs and what does not.

use super::links::repository;
use std::fs;

/// All pages that the table of contents names.
pub struct Pages(pub Vec<Page>);

pub struct Page {
    /// Path below `docs/`.
    pub name: String,
    pub parts: Vec<Part>,
}

/// What a page consists of.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Lines that do nothing here.
    Text(Vec<String>),
    /// `<!-- test: WORDS -->`
    Test(String),
    /// A file that the reader writes.
    File { name: String, lines: Vec<String> },
    /// Statements for mongosh.
    Mongosh(Vec<String>),
    /// Commands, each with its output.
    Console(Vec<Call>),
}

/// A command and what the guide shows below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The lines as the guide has them, without the prompt.
    pub command: Vec<String>,
    pub output: Vec<String>,
    /// Whether the guide shows the exit code in the next line, so that the command may fail.
    pub may_fail: bool,
}

impl Pages {
    pub fn read() -> Self {
        let docs = repository().join("docs");
        let contents = fs::read_to_string(docs.join("SUMMARY.md")).expect("read docs/SUMMARY.md");
        let names = super::links::targets(&contents);
        let read = |name: String| {
            let text = fs::read_to_string(docs.join(&name)).unwrap_or_else(|e| panic!("docs/{name}: {e}"));
            Page { parts: split(&text), name }
        };
        Self(names.into_iter().map(read).collect())
    }

    pub fn write(&self) {
        for page in &self.0 {
            let file = repository().join("docs").join(&page.name);
            let text = join(&page.parts);
            if fs::read_to_string(&file).expect("read the page") != text {
                fs::write(&file, text).expect("write the page");
            }
        }
    }
}

/// The part that begins with this line, if it is the first line of a block that runs.
fn block_that_runs(line: &str) -> Option<Part> {
    match line.strip_prefix("```")? {
        "console run" => Some(Part::Console(Vec::new())),
        "js run" => Some(Part::Mongosh(Vec::new())),
        info => {
            let name = info.strip_prefix("yaml run=")?.to_owned();
            Some(Part::File { name, lines: Vec::new() })
        }
    }
}

/// The parts of a page.
fn split(text: &str) -> Vec<Part> {
    let mut parts = vec![Part::Text(Vec::new())];
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(mut part) = block_that_runs(line) {
            let inside: Vec<String> = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned).collect();
            match &mut part {
                Part::Console(into) => *into = read_calls(&inside),
                Part::Mongosh(into) | Part::File { lines: into, .. } => *into = inside,
                Part::Text(_) | Part::Test(_) => {}
            }
            parts.extend([part, Part::Text(Vec::new())]);
        } else if let Some(words) = line.strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->")) {
            parts.extend([Part::Test(words.to_owned()), Part::Text(Vec::new())]);
        } else if let Some(Part::Text(into)) = parts.last_mut() {
            let would_run = line.trim_start().starts_with("```") && line.contains(" run");
            assert!(
                !would_run,
                "this block does not run; write 'console run', 'js run' or 'yaml run=NAME', not indented: {line}"
            );
            into.push(line.to_owned());
        }
    }
    parts
}

/// The commands of a console block.
fn read_calls(lines: &[String]) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for line in lines {
        let goes_on = calls
            .last()
            .is_some_and(|it| it.output.is_empty() && it.command.last().is_some_and(|it| it.ends_with('\\')));
        if let Some(command) = line.strip_prefix("$ ") {
            if let Some(before) = calls.last_mut().filter(|_| command == "echo $?") {
                before.may_fail = true;
            }
            calls.push(Call { command: vec![command.to_owned()], output: Vec::new(), may_fail: false });
        } else if goes_on {
            calls.last_mut().expect("one that goes on").command.push(line.clone());
        } else {
            calls.last_mut().unwrap_or_else(|| panic!("no command before '{line}'")).output.push(line.clone());
        }
    }
    calls
}

/// The page that consists of these parts.
fn join(parts: &[Part]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let block = |info: String, inside: &mut dyn Iterator<Item = String>, lines: &mut Vec<String>| {
        lines.push(format!("```{info}"));
        lines.extend(inside);
        lines.push("```".to_owned());
    };
    for part in parts {
        match part {
            Part::Text(text) => lines.extend(text.iter().cloned()),
            Part::Test(words) => lines.push(format!("<!-- test: {words} -->")),
            Part::File { name, lines: inside } => {
                block(format!("yaml run={name}"), &mut inside.iter().cloned(), &mut lines);
            }
            Part::Mongosh(inside) => block("js run".to_owned(), &mut inside.iter().cloned(), &mut lines),
            Part::Console(calls) => {
                let shown = calls.iter().flat_map(|call| {
                    let first = call.command.iter().take(1).map(|line| format!("$ {line}"));
                    first.chain(call.command.iter().skip(1).cloned()).chain(call.output.iter().cloned())
                });
                block("console run".to_owned(), &mut shown.into_iter(), &mut lines);
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[test]
fn a_page_is_taken_apart_and_put_together_again() {
    let page = "# A\n<!-- test: agent -->\n```console run\n$ pbm \\\n    list\nBackups:\n  none\n$ pbm x\n$ echo $?\n2\n```\n\n\
                ```sh\nnot run\n```\n```js run\ndb.x()\n```\n```yaml run=pbm.yaml\na: b\n```\nend\n";
    let taken = split(page);
    assert_eq!(join(&taken), page);
    let Part::Console(calls) = &taken[3] else { panic!("{taken:?}") };
    assert_eq!(calls[0].command, ["pbm \\", "    list"]);
    assert_eq!(calls[0].output, ["Backups:", "  none"]);
    assert_eq!(calls.iter().map(|it| it.may_fail).collect::<Vec<_>>(), [false, true, false]);
    assert!(taken.contains(&Part::File { name: "pbm.yaml".into(), lines: vec!["a: b".into()] }));
}
