//! Manual pages and completion scripts, made from the definitions of the command lines.
//!
//! They depend on the definitions and nothing else: not on the time, the terminal or the environment.
//!
//! # What completion offers
//! Completion offers the possible values of an argument, files if its value is a path, and names from the cluster if its
//! value is called as in [`Names`]: the script then runs `pbm __names KIND`. It offers nothing for all other values.

use clap::{Arg, Command, ValueHint, builder::PossibleValuesParser};
use clap_complete::Shell;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The shells that a script can be made for.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The kinds of names in the cluster that completion can offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Backups,
    Restores,
    Profiles,
    Nodes,
}

impl Names {
    const ALL: [Self; 4] = [Self::Backups, Self::Restores, Self::Profiles, Self::Nodes];
    /// The hidden subcommand that prints the names.
    pub const SUBCOMMAND: &str = "__names";

    /// The word by which the scripts ask for this kind.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Backups => "backups",
            Self::Restores => "restores",
            Self::Profiles => "profiles",
            Self::Nodes => "nodes",
        }
    }

    /// The kind that [`Self::word`] means.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Determines the kind by the name that the argument's value has in the help.
    fn of(arg: &Arg) -> Option<Self> {
        match arg.get_value_names()?.first()?.as_str() {
            "BACKUP" => Some(Self::Backups),
            "RESTORE" => Some(Self::Restores),
            "PROFILE" => Some(Self::Profiles),
            "NODE" => Some(Self::Nodes),
            _ => None,
        }
    }

    /// Placeholder in a script for the names of this kind.
    fn mark(self) -> &'static str {
        match self {
            Self::Backups => "@backups@",
            Self::Restores => "@restores@",
            Self::Profiles => "@profiles@",
            Self::Nodes => "@nodes@",
        }
    }
}

/// Appends examples to the help of the program and of each subcommand. The key of each example is the words that follow the
/// program's name.
#[must_use]
pub fn with_examples(command: Command, examples: &[(&str, &[&str])]) -> Command {
    fn add(command: Command, path: &str, examples: &[(&str, &[&str])]) -> Command {
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let command = names.into_iter().fold(command, |command, name| {
            let below = format!("{path} {name}");
            command.mut_subcommand(&name, |sub| add(sub, below.trim_start(), examples))
        });
        let Some((_, lines)) = examples.iter().find(|(words, _)| *words == path) else { return command };
        let before = command.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
        let title = if lines.len() == 1 { "Example" } else { "Examples" };
        command.after_help(format!("{before}{title}:\n  {}", lines.join("\n  ")))
    }
    add(command, "", examples)
}

/// Placeholder like those of [`Names`], for the files of the folder.
const FILES: &str = "@files@";

/// The completion script of a program.
///
/// # Errors
/// No such shell.
pub fn completion(shell: &str, command: Command) -> Result<Vec<u8>, String> {
    let shell: Shell = shell.parse()?;
    let mut command = marked(command);
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name.clone(), &mut script);
    let script = String::from_utf8(script).map_err(|error| error.to_string())?;
    let script = match shell {
        Shell::Bash => bash(script),
        Shell::Zsh => zsh(script, &name),
        _ => fish(script, &name, &command),
    };
    Ok(script.into_bytes())
}

/// Puts placeholders into the command where names and files are offered, and removes the offer for all other values.
fn marked(command: Command) -> Command {
    let subcommands: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| {
        let listed = arg.get_possible_values().into_iter().next().is_some();
        let takes_a_value = arg.is_positional() || arg.get_action().takes_values();
        if listed || !takes_a_value {
            return arg;
        }
        let path = matches!(arg.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath);
        match Names::of(&arg) {
            Some(names) => arg.value_parser(PossibleValuesParser::new([names.mark()])),
            None if path && arg.is_positional() => arg.value_parser(PossibleValuesParser::new([FILES])),
            None if path => arg,
            None => arg.value_hint(ValueHint::Other),
        }
    });
    subcommands.into_iter().fold(command, |command, name| command.mut_subcommand(name, marked))
}

/// Adapts the bash script: it offers no file names where nothing else fits, and completes names that contain colons.
fn bash(mut script: String) -> String {
    for names in Names::ALL {
        script = script.replace(names.mark(), &format!("$(_pbm_names {})", names.word()));
    }
    let script = script.replace(FILES, r#"$(compgen -f -- "${cur}")"#).replace(" -o bashdefault -o default", "");
    if !script.contains("_pbm_names") {
        return script;
    }
    const HEAD: &str = r#"# Names of backups hold colons, at which words would be broken.
COMP_WORDBREAKS="${COMP_WORDBREAKS//:/}"

# What the cluster has; nothing when it can't be asked.
_pbm_names() {
    if [[ "${cur}" != -* ]]; then
        "${COMP_WORDS[0]}" __names "$1" 2>/dev/null
    fi
}

"#;
    HEAD.to_owned() + &script
}

fn zsh(mut script: String, program: &str) -> String {
    for names in Names::ALL {
        let ask = format!("{{compadd -- ${{(f)\"$({program} __names {} 2>/dev/null)\"}}}}", names.word());
        script = script.replace(&format!("({})", names.mark()), &ask);
    }
    script.replace(&format!("({FILES})"), "_files")
}

/// Adapts the fish script: the generator does not complete positional arguments, so they are added here.
fn fish(mut script: String, program: &str, command: &Command) -> String {
    let ask = |names: Names| format!("({program} __names {} 2>/dev/null)", names.word());
    for names in Names::ALL {
        script = script.replace(&format!("{}\\t''", names.mark()), &ask(names));
    }
    let mut add = |path: &[&str], sub: &Command| {
        for arg in sub.get_positionals() {
            let Some(names) = Names::of(arg) else { continue };
            let seen: Vec<String> = path.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
            script.push_str(&format!(
                "complete -c {program} -n \"{}\" -f -a \"{}\"\n",
                seen.join("; and "),
                ask(names)
            ));
        }
    };
    for sub in command.get_subcommands() {
        add(&[sub.get_name()], sub);
        for below in sub.get_subcommands() {
            add(&[sub.get_name(), below.get_name()], below);
        }
    }
    script
}

/// Writes a page for every program and each of its subcommands into `folder`, which is made if it is missing. Returns
/// the number of files.
///
/// # Errors
/// The folder or a file can't be written; the message names it.
pub fn write_manual(folder: &Path, programs: impl IntoIterator<Item = Command>) -> io::Result<usize> {
    make(folder)?;
    let mut pages = 0;
    for program in programs {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        pages += write_pages(folder, &program)?;
    }
    Ok(pages)
}

fn write_pages(folder: &Path, command: &Command) -> io::Result<usize> {
    let mut pages = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages += write_pages(folder, sub)?;
    }
    let page = clap_mangen::Man::new(command.clone()).source(concat!("pbmbox ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text)?;
    write(folder.join(page.get_filename()), &text)?;
    Ok(pages)
}

/// Writes the scripts of every program for all shells into `folder`, which is made if it is missing, under the names that
/// the shells look for. Returns the number of files.
///
/// # Errors
/// The folder or a file can't be written; the message names it.
pub fn write_completions(folder: &Path, programs: impl IntoIterator<Item = Command>) -> io::Result<usize> {
    make(folder)?;
    let mut scripts = 0;
    for program in programs {
        let name = program.get_name();
        let files = [format!("{name}.bash"), format!("_{name}"), format!("{name}.fish")];
        for (shell, file) in SHELLS.iter().zip(files) {
            let script = completion(shell, program.clone()).map_err(io::Error::other)?;
            write(folder.join(file), &script)?;
            scripts += 1;
        }
    }
    Ok(scripts)
}

fn make(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| io::Error::other(format!("make {}: {error}", folder.display())))
}

fn write(file: PathBuf, text: &[u8]) -> io::Result<()> {
    fs::write(&file, text).map_err(|error| io::Error::other(format!("write {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_that_is_not_hidden_has_a_page() {
        let program = Command::new("one")
            .about("About one")
            .subcommand(Command::new("shown").about("About shown").subcommand(Command::new("below")))
            .subcommand(Command::new("secret").hide(true));
        let folder = std::env::temp_dir().join(format!("pbmbox-pages-{}", std::process::id()));
        assert_eq!(write_manual(&folder, [program.clone()]).expect("write"), 3);
        assert_eq!(write_completions(&folder, [program]).expect("write"), 3);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .expect("read")
            .flatten()
            .map(|it| it.file_name().into_string().expect("text"))
            .collect();
        files.sort();
        assert_eq!(files, ["_one", "one-shown-below.1", "one-shown.1", "one.1", "one.bash", "one.fish"]);
        let page = fs::read_to_string(folder.join("one-shown.1")).expect("read");
        assert!(page.contains("About shown"), "{page}");
        fs::remove_dir_all(&folder).expect("clean up");
        assert!(completion("csh", Command::new("one")).is_err());
    }
}
