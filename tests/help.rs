//! The whole help, of every program and subcommand, as one text.

use crate::support::programs::Programs;
use crate::support::snapshot;

/// The words that lead to every subcommand, depth first, the program itself first of all.
fn paths(command: &clap::Command, at: &[String], into: &mut Vec<Vec<String>>) {
    into.push(at.to_vec());
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        paths(sub, &[at, &[sub.get_name().to_owned()]].concat(), into);
    }
}

#[test]
fn the_help_is_what_was_read_last() {
    let programs = Programs::new();
    let mut text = String::new();
    let all_programs = [
        ("pbm", pbmbox::cmd::command()),
        ("pbm-agent", pbmbox::agent::command()),
        ("pbm-agent-entrypoint", pbmbox::agent::sidecar::command()),
    ];
    for (program, command) in all_programs {
        let mut all = Vec::new();
        paths(&command, &[], &mut all);
        for words in all {
            let done =
                programs.command(program).env("COLUMNS", "100").args(&words).arg("--help").output().expect("run");
            assert!(done.status.success() && done.stderr.is_empty(), "{program} {words:?}: {done:?}");
            let said = String::from_utf8(done.stdout).expect("text");
            let call: Vec<&str> = std::iter::once(program).chain(words.iter().map(String::as_str)).collect();
            let said: Vec<&str> = said.lines().map(str::trim_end).collect();
            text.push_str(&format!("$ {} --help\n{}\n\n", call.join(" "), said.join("\n").trim_end()));
        }
    }
    snapshot::check("help.txt", &text);
}
