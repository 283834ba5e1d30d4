//! The guide under `docs/`: its commands run here and print what it shows, and its links lead somewhere.
//!
//! Blocks that run have `run` behind their language: in `console run` every line after `$ ` is a command of one shell, and
//! the lines below it are its output; `js run` is for mongosh; `yaml run=NAME` is written to a file of this name. A comment
//! `<!-- test: … -->` prepares something that the reader does elsewhere (see [`session::Session::prepare`]).
//!
//! `PBMBOX_SNAPSHOTS=1` writes what the commands print into the guide, where it differs from what the guide shows.

mod compare;
mod links;
mod mongosh;
mod pages;
mod session;

use pages::{Pages, Part};
use session::Session;

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_guide_print_what_it_shows() {
    let mut pages = Pages::read();
    let mut session = Session::start().await;
    let mut differences = String::new();
    for page in &mut pages.0 {
        for part in &mut page.parts {
            match part {
                Part::Text(_) => {}
                Part::Test(words) => session.prepare(words).await,
                Part::File { name, lines } => session.write(name, lines),
                Part::Mongosh(lines) => drop(session.mongosh(&lines.join("\n")).await),
                Part::Console(calls) => {
                    for call in calls {
                        if let Some(difference) = session.call(call).await {
                            differences.push_str(&format!("\n{}: {difference}", page.name));
                        }
                    }
                }
            }
        }
    }
    if std::env::var_os("PBMBOX_SNAPSHOTS").is_some() {
        pages.write();
        return;
    }
    assert!(differences.is_empty(), "the guide shows other output than these commands print:\n{differences}");
}
