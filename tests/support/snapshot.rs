//! Texts kept as files, for output whose every word matters.

use std::fs;
use std::path::Path;

/// With this variable set, the files are written anew from what the program prints.
const WRITE: &str = "PBMBOX_SNAPSHOTS";

/// Compares `text` with tests/fixtures/`name`. Panics with the lines that differ and with the way to accept them.
#[track_caller]
pub fn check(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("make the folder");
        fs::write(&file, text).expect("write the snapshot");
        return;
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    if kept == text {
        return;
    }
    let (kept, now): (Vec<&str>, Vec<&str>) = (kept.lines().collect(), text.lines().collect());
    let same = kept.iter().zip(&now).take_while(|(a, b)| a == b).count();
    let part = |lines: &[&str], sign: &str| {
        lines.iter().skip(same).take(12).map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    panic!(
        "tests/fixtures/{name} differs from line {} on:\n{}{}\nIf the new text is right, run the same tests with {WRITE}=1 and \
         read what git shows.",
        same + 1,
        part(&kept, "-"),
        part(&now, "+")
    );
}
