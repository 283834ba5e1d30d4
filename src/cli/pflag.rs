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

/// Replaces the messages of Rust's parsers in the error's text by words that users understand.
#[must_use]
pub fn plain_words(text: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("invalid digit found in string", "a whole number is expected"),
        ("cannot parse integer from empty string", "a whole number is expected"),
        ("number too large to fit in target type", "the number is too large"),
        ("number too small to fit in target type", "the number is too small"),
        ("invalid float literal", "a number is expected"),
        ("cannot parse float from empty string", "a number is expected"),
    ];
    WORDS.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

/// The words of a command line up to its last subcommand, such as `pbm profile add`. The help of that subcommand has the
/// answer.
#[must_use]
pub fn subcommand_at(command: &Command, args: &[OsString]) -> String {
    let mut words = vec![command.get_name().to_owned()];
    let mut at = command;
    for arg in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if let Some(sub) = at.find_subcommand(arg) {
            words.push(sub.get_name().to_owned());
            at = sub;
        }
    }
    words.join(" ")
}

/// Recognises calls that show the help in the original and would be a mistake here: `help SUBCOMMAND` with other options,
/// which are ignored, and a call without any subcommand. Returns the arguments that show the same help.
#[must_use]
pub fn asks_for_help(command: &Command, args: &[OsString]) -> Option<Vec<OsString>> {
    let program = args.first()?.clone();
    let valued = |text: &str| {
        let takes = |arg: &&Arg| !matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Help | ArgAction::Version);
        command.get_arguments().filter(takes).any(|arg| names(arg).any(|name| name == text))
    };
    let known = |text: &str| {
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        command.get_arguments().any(|arg| names(arg).any(|it| it == name))
    };
    let (mut words, mut rest) = (Vec::new(), args.iter().skip(1));
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some(text) if text.starts_with('-') && text.len() > 1 => {
                if words.is_empty() && !known(text) {
                    return None;
                }
                if valued(text) {
                    rest.next()?;
                }
            }
            _ => words.push(arg.clone()),
        }
    }
    match words.split_first() {
        None => Some(vec![program, "--help".into()]),
        Some((first, topic)) if first == "help" && !topic.is_empty() => {
            Some([&[program], topic, &["--help".into()]].concat())
        }
        Some(_) => None,
    }
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
    fn the_subcommand_at_hand_is_found() {
        for (text, path) in
            [("x", "x"), ("x --quiet go --ns other", "x go"), ("x nosuch", "x"), ("x other -z", "x other")]
        {
            let args: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            assert_eq!(subcommand_at(&command(), &args), path, "{text}");
        }
    }

    #[test]
    fn help_is_asked_for_as_in_the_original() {
        let command = command().arg(Arg::new("uri").long("uri").global(true));
        for (text, help) in [
            ("x help go --uri mongodb://h", Some("x go --help")),
            ("x --uri=u help go", Some("x go --help")),
            ("x --uri u", Some("x --help")),
            ("x --uri go", Some("x --help")),
            ("x --uri", None),
            ("x --nosuch", None),
            ("x help", None),
            ("x go --ns help", None),
            ("x nosuch", None),
        ] {
            let args: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            let found = asks_for_help(&command, &args).map(|args| args.join(" ".as_ref()).into_string().expect("text"));
            assert_eq!(found.as_deref(), help, "{text}");
        }
    }

    #[test]
    fn parsers_speak_plainly() {
        assert_eq!(
            plain_words("invalid value 'x': invalid digit found in string"),
            "invalid value 'x': a whole number is expected"
        );
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
