//! Manual pages and completion scripts, made from the definitions of the command lines.
//!
//! They depend on the definitions and nothing else: not on the time, the terminal or the environment.

use clap::Command;
use clap_complete::Shell;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The shells that a script can be made for.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The completion script of a program.
///
/// # Errors
/// No such shell.
pub fn completion(shell: &str, mut command: Command) -> Result<Vec<u8>, String> {
    let shell: Shell = shell.parse()?;
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Ok(script)
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
