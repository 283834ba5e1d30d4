//! Keeps passwords out of the list of processes, where everybody can read arguments.

use std::{ffi::OsString, os::unix::ffi::OsStrExt, os::unix::process::CommandExt, process::Command};

const OPTION: &str = "--mongodb-uri";
const VARIABLE: &str = "PBM_MONGODB_URI";

/// Starts this program again, in this process, with a connection string that holds a password moved from the arguments to
/// the environment, which only this user can read. Returns when there is nothing to hide, or no way to.
pub fn connection_string(args: &[OsString]) {
    let Some((uri, rest)) = split(args) else { return };
    let Some((name, rest)) = rest.split_first() else { return };
    // The name it was called by keeps its name in the list of processes; through a path that is gone it has another one.
    for path in [Some(std::path::PathBuf::from(name)), std::env::current_exe().ok()].into_iter().flatten() {
        // It returns only when it fails; the arguments that we have do as well.
        let _ = Command::new(path).arg0(name).args(rest).env(VARIABLE, &uri).exec();
    }
}

/// The connection string, if it holds a password, and the other arguments. The last one counts, as it does later.
fn split(args: &[OsString]) -> Option<(OsString, Vec<OsString>)> {
    let mut uri = None;
    let mut rest = Vec::new();
    let mut left = args.iter();
    while let Some(arg) = left.next() {
        if arg == "--" {
            rest.push(arg.clone());
            rest.extend(left.by_ref().cloned());
        } else if arg == OPTION {
            // Without a value it is an error, and the parser's to tell.
            uri = Some(left.next()?.clone());
        } else if let Some(value) = arg.as_bytes().strip_prefix(b"--mongodb-uri=") {
            uri = Some(std::ffi::OsStr::from_bytes(value).to_owned());
        } else {
            rest.push(arg.clone());
        }
    }
    uri.filter(|uri| uri.as_bytes().contains(&b'@')).map(|uri| (uri, rest))
}
