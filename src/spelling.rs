//! Spellings that scripts for the original use, as its flags are read by Go's pflag: `--wait=true`, and an option that
//! stands twice, whose last value counts.

use clap::{Arg, ArgAction, ArgMatches, Command};
use std::{collections::HashSet, ffi::OsString};

/// Reads a command line that may be spelled so.
///
/// # Errors
/// Help that was asked for, or a mistake.
pub fn read(command: Command, args: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let switches = Switches::of(&command);
    command.args_override_self(true).try_get_matches_from(args.into_iter().filter_map(|arg| switches.plain(arg)))
}

/// Options that are there or not, by their names with the dashes.
#[derive(Debug, Default)]
struct Switches {
    names: HashSet<String>,
    /// Names that somewhere take a value: these are left as they are.
    valued: HashSet<String>,
}

impl Switches {
    fn of(command: &Command) -> Self {
        let mut switches = Self::default();
        switches.add(command);
        switches.names.retain(|name| !switches.valued.contains(name));
        switches
    }

    fn add(&mut self, command: &Command) {
        for arg in command.get_arguments() {
            let set = match arg.get_action() {
                ArgAction::SetTrue => &mut self.names,
                _ => &mut self.valued,
            };
            set.extend(names(arg));
        }
        command.get_subcommands().for_each(|command| self.add(command));
    }

    /// `--wait` in place of `--wait=true`, and nothing in place of `--wait=false`.
    fn plain(&self, arg: OsString) -> Option<OsString> {
        let Some((name, value)) = arg.to_str().and_then(|text| text.split_once('=')) else { return Some(arg) };
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" if self.names.contains(name) => Some(name.into()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" if self.names.contains(name) => None,
            _ => Some(arg),
        }
    }
}

fn names(arg: &Arg) -> impl Iterator<Item = String> {
    let long = arg.get_long().map(|name| format!("--{name}"));
    long.into_iter().chain(arg.get_short().map(|name| format!("-{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let sub = Command::new("go").arg(switch("wait").short('w')).arg(Arg::new("ns").long("ns"));
        Command::new("x").arg(switch("quiet").global(true)).subcommand(sub).subcommand(
            Command::new("other")
                .arg(Arg::new("wait").long("wait").action(ArgAction::Set))
                .arg(Arg::new("set").long("set").action(ArgAction::Append)),
        )
    }

    fn go(text: &str) -> Result<(bool, bool, Option<String>), clap::Error> {
        let matches = read(command(), text.split(' ').map(OsString::from).collect())?;
        let (_, go) = matches.subcommand().expect("a subcommand");
        Ok((go.get_flag("quiet"), go.get_flag("wait"), go.get_one("ns").cloned()))
    }

    #[test]
    fn a_switch_may_have_a_value_and_the_last_option_counts() {
        for (text, want) in [
            ("x go -w=true --quiet=1", (true, true, None)),
            ("x go -w=F --quiet=false", (false, false, None)),
            ("x go -w -w --ns a --ns=b", (false, true, Some("b".to_owned()))),
            ("x --quiet go --quiet", (true, false, None)),
        ] {
            assert_eq!(go(text).expect(text), want, "{text}");
        }
        assert!(go("x go -w=maybe").is_err());
    }

    #[test]
    fn what_takes_a_value_is_left_alone() {
        let args = ["x", "other", "--wait=true", "--set", "a", "--set", "b"].map(OsString::from);
        let matches = read(command(), args.to_vec()).expect("read");
        let (_, other) = matches.subcommand().expect("a subcommand");
        assert_eq!(other.get_one::<String>("wait").map(String::as_str), Some("true"));
        assert_eq!(other.get_many::<String>("set").expect("both").collect::<Vec<_>>(), ["a", "b"]);
    }
}
