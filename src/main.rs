//! The name we were started under chooses the program; nothing else happens here.

use std::{ffi::OsString, path::Path, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One of the programs in this executable.
struct Program {
    name: &'static str,
    run: fn(Vec<OsString>) -> ExitCode,
    /// The command line as data, for its one-line description.
    cli: fn() -> clap::Command,
}

const PROGRAMS: &[Program] = &[
    Program { name: "pbm", run: pbmbox::cmd::run, cli: pbmbox::cmd::command },
    Program { name: "pbm-agent", run: pbmbox::agent::run, cli: pbmbox::agent::command },
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
        out.push_str(&format!("  {:<10} {about}\n", program.name));
    }
    out
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some((program, at)) = choose(&args) {
        return (program.run)(args.split_off(at));
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
