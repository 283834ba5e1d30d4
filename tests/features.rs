//! `docs/features.md` is complete, and the command line has what it says.

use std::collections::{BTreeMap, BTreeSet};

/// Rows of each group of the original's features.
const GROUPS: [usize; 23] = [16, 29, 37, 5, 15, 16, 12, 10, 11, 10, 7, 7, 12, 16, 8, 7, 5, 12, 15, 3, 10, 10, 8];
const VERDICTS: [&str; 5] = ["works", "partly", "not yet", "needs PSMDB", "left out"];

struct Row {
    number: String,
    feature: String,
    verdict: String,
    remark: String,
}

fn rows() -> Vec<Row> {
    let table = include_str!("../docs/features.md");
    let cells =
        |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|it| it.trim().to_owned()).collect() };
    let rows =
        table.lines().filter(|line| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(char::is_numeric)));
    rows.map(|line| match <[String; 4]>::try_from(cells(line)) {
        Ok([number, feature, verdict, remark]) => Row { number, feature, verdict, remark },
        Err(cells) => panic!("not four cells: {cells:?}"),
    })
    .collect()
}

#[test]
fn every_feature_of_the_original_has_one_verdict() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows() {
        assert!(VERDICTS.contains(&row.verdict.as_str()), "{}: '{}'", row.number, row.verdict);
        assert!(!row.feature.is_empty(), "{}: no name", row.number);
        let needs_a_reason = ["partly", "left out"].contains(&row.verdict.as_str());
        assert!(!needs_a_reason || !row.remark.is_empty(), "{}: no reason", row.number);
        *counts.entry(row.number).or_default() += 1;
    }
    let wanted = GROUPS.iter().zip(1..).flat_map(|(rows, group)| (1..=*rows).map(move |row| format!("{group}.{row}")));
    let wanted: BTreeMap<String, usize> = wanted.map(|number| (number, 1)).collect();
    assert_eq!(wanted.values().sum::<usize>(), 281);
    assert_eq!(counts, wanted);
}

/// Texts between backticks that are calls of a program.
fn calls(row: &Row, program: &str) -> Vec<Vec<String>> {
    let text = format!("{} {}", row.feature, row.remark);
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|it| it.strip_prefix(program))
        .map(|it| it.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// Complains about words that `command` has no subcommand, and no long option, for.
fn look_up(mut command: clap::Command, words: &[String], globals: &BTreeSet<String>) -> Result<(), String> {
    for word in words {
        let longs: BTreeSet<String> =
            command.get_arguments().filter_map(|it| it.get_long().map(str::to_owned)).collect();
        if let Some(option) = word.strip_prefix("--") {
            if !longs.contains(option) && !globals.contains(option) {
                return Err(format!("{} has no --{option}", command.get_name()));
            }
        } else {
            command = match command.find_subcommand(word) {
                Some(found) => found.clone(),
                None if word == "help" => return Ok(()),
                None => return Err(format!("{} has no '{word}'", command.get_name())),
            };
        }
    }
    Ok(())
}

#[test]
fn the_command_line_has_what_the_table_names() {
    let mut named = 0;
    let mut wrong = Vec::new();
    for (program, command) in [("pbm ", pbmbox::cmd::command()), ("pbm-agent ", pbmbox::agent::command())] {
        let globals = command.get_arguments().filter_map(|it| it.get_long().map(str::to_owned)).collect();
        for row in rows().iter().filter(|row| ["works", "partly"].contains(&row.verdict.as_str())) {
            for words in calls(row, program) {
                named += 1;
                if let Err(why) = look_up(command.clone(), &words, &globals) {
                    wrong.push(format!("{}: {why}", row.number));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(named > 60, "only {named} calls were found: the table has another form");
}
