//! The name we were started under chooses the program; under its own name the executable writes the programs' pages.

mod conceal;
mod libc_names;
mod links;

use pbmbox::{agent, backup::physical::guard, cli::pages, cmd, model::names::PBM_VERSION, tools};
use std::{ffi::OsString, path::Path, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One of the programs in this executable.
struct Program {
    name: &'static str,
    run: fn(Vec<OsString>) -> ExitCode,
    /// The command line as data, for its one-line description, manual pages and completion.
    cli: fn() -> clap::Command,
}

const PROGRAMS: &[Program] = &[
    Program { name: "pbm", run: cmd::run, cli: cmd::command },
    Program { name: "pbm-agent", run: agent::run, cli: agent::command },
    Program { name: "pbm-agent-entrypoint", run: agent::sidecar::run, cli: agent::sidecar::command },
    Program { name: "pbm-speed-test", run: tools::speed_test::run, cli: tools::speed_test::command },
    Program { name: "pbmctl", run: tools::ctl::run, cli: tools::ctl::command },
];

/// The file name we were started under chooses; under any other name the first argument does. With the place of the
/// program's own arguments.
fn choose(args: &[OsString]) -> Option<(&'static Program, usize)> {
    args.iter().take(2).enumerate().find_map(|(at, arg)| {
        let name = Path::new(arg).file_name()?;
        Some((PROGRAMS.iter().find(|program| name == program.name)?, at))
    })
}

fn programs() -> String {
    let mut out = "Programs, to be started by a link of that name or as the first argument:\n".to_owned();
    for program in PROGRAMS {
        let about = (program.cli)().get_about().map(ToString::to_string).unwrap_or_default();
        out.push_str(&format!("  {:<20} {about}\n", program.name));
    }
    out + "To install them:\n  install-links DIR    make a link of each name in DIR\n  \
           man DIR              write the manual pages of all programs\n  \
           completions DIR      write their completion scripts for bash, zsh and fish\n\
         Also:\n  help, version        this text, and the release\n"
}

/// `install-links DIR`, `man DIR` and `completions DIR`.
fn write(what: &str, folder: &Path) -> Option<ExitCode> {
    let all = PROGRAMS.iter().map(|program| (program.cli)());
    let written = match what.trim_start_matches("--") {
        "install-links" => links::make(folder, PROGRAMS.iter().map(|program| program.name)),
        "man" => pages::write_manual(folder, all),
        "completions" => pages::write_completions(folder, all),
        _ => return None,
    };
    Some(match written {
        Ok(files) => {
            println!("{files} files are in {}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "Error: {error}\nHint: give a directory that can be written to, with no other programs of these names"
            );
            ExitCode::FAILURE
        }
    })
}

/// What is asked of the executable under its own name, where no folder is given.
fn answer(what: &str) -> Option<ExitCode> {
    match what {
        "help" | "-h" => print!("{}", programs()),
        "version" | "-V" => println!("pbmbox {} (formats of {})", env!("CARGO_PKG_VERSION"), PBM_VERSION),
        "install-links" | "man" | "completions" => {
            eprintln!(
                "Error: {what} needs a folder\nHint: pbmbox {what} DIR writes into DIR, which is made if it is missing"
            );
            return Some(ExitCode::from(2));
        }
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    libc_names::keep_to_files_and_dns();
    let mut args: Vec<OsString> = std::env::args_os().collect();
    conceal::connection_string(&args);
    if let Some((program, at)) = choose(&args) {
        return (program.run)(args.split_off(at));
    }
    // For trying the program out, so neither a link nor the help knows it.
    if args.get(1).is_some_and(|it| it == "sandbox") {
        return tools::sandbox::run(args.split_off(1));
    }
    // Started by agents only.
    if args.get(1).is_some_and(|it| it == guard::NAME) {
        return guard::run();
    }
    let texts: Vec<&str> = args.iter().skip(1).filter_map(|arg| arg.to_str()).collect();
    if let [what, folder] = texts[..]
        && let Some(code) = write(what, Path::new(folder))
    {
        return code;
    }
    if let [what] = texts[..]
        && let Some(code) = answer(what.trim_start_matches("--"))
    {
        return code;
    }
    match args.get(1) {
        None => {
            print!("{}", programs());
            ExitCode::SUCCESS
        }
        Some(unknown) => {
            eprint!("unknown program {}\n{}", unknown.display(), programs());
            ExitCode::from(2)
        }
    }
}
