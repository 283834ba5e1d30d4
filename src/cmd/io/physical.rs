//! What the original has for physical, incremental and external backups, and this build does not: such an option is
//! refused by its name. Values that ask for nothing are taken.

use super::error::{CliError, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};

/// An option: subcommand, long and short name, and the values that ask for nothing; without any it is a switch.
type Missing = (&'static str, &'static str, Option<char>, &'static [&'static str]);

const OPTIONS: &[Missing] = &[
    ("backup", "base", None, &[]),
    ("backup", "list-files", Some('l'), &[]),
    ("restore", "external", Some('x'), &[]),
    ("restore", "exit", None, &[]),
    ("restore", "config", Some('c'), &[""]),
    ("restore", "ts", None, &[""]),
];

const SUBCOMMANDS: &[&str] = &["backup-finish", "restore-finish"];

const WHY: &str = "is for physical, incremental and external backups, which need Percona Server for MongoDB and are not \
                   in this build; use logical ones";

/// The command line that knows them, hidden.
pub fn known(command: Command) -> Command {
    let command = OPTIONS.iter().fold(command, |command, (of, long, short, idle)| {
        let arg = Arg::new(*long).long(*long).hide(true);
        let arg = short.iter().fold(arg, |arg, short| arg.short(*short));
        let action = if idle.is_empty() { ArgAction::SetTrue } else { ArgAction::Set };
        command.mut_subcommand(*of, |sub| sub.arg(arg.action(action)))
    });
    SUBCOMMANDS.iter().fold(command, |command, name| {
        let rest = Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
        command.subcommand(Command::new(*name).hide(true).arg(rest))
    })
}

/// Refuses what was asked for.
///
/// # Errors
/// One of them was given with a meaning.
pub fn refuse(matches: &ArgMatches) -> Result<()> {
    let Some((name, given)) = matches.subcommand() else { return Ok(()) };
    if SUBCOMMANDS.contains(&name) {
        return Err(CliError::usage(format!("{name} {WHY}")));
    }
    for (_, long, _, idle) in OPTIONS.iter().filter(|(of, ..)| *of == name) {
        let asked = match idle.is_empty() {
            true => given.try_get_one(long).is_ok_and(|set| set == Some(&true)),
            false => matches!(given.try_get_one::<String>(long), Ok(Some(value)) if !idle.contains(&value.as_str())),
        };
        if asked {
            return Err(CliError::usage(format!("--{long} {WHY}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<String> {
        let command = known(crate::cmd::command());
        let matches = crate::cli::pflag::read(command, text.split(' ').map(Into::into).collect()).expect(text);
        refuse(&matches).err().map(|error| error.source.to_string())
    }

    #[test]
    fn what_needs_another_server_is_refused_by_name() {
        for text in [
            "pbm backup --base",
            "pbm backup -l",
            "pbm restore b -x",
            "pbm restore b --ts 1,1",
            "pbm backup-finish b",
            "pbm restore-finish r -c f.yaml",
        ] {
            assert!(refused(text).is_some_and(|why| why.contains("Percona Server")), "{text}");
        }
        for text in
            ["pbm backup --num-parallel-files=0 --base=false", "pbm restore b --fallback-enabled=false", "pbm list"]
        {
            assert_eq!(refused(text), None, "{text}");
        }
    }
}
