//! A question before something that can't be undone.

use super::{
    error::{CliError, Result},
    fit,
    output::Format,
};
use crate::printable;
use std::io::{IsTerminal, Write};

/// Shows the plan and asks; goes on only after a yes. `undone` says what has not happened otherwise.
///
/// # Errors
/// There is no terminal, or the answer is not yes.
pub async fn confirm(out: Format, plan: &str, question: &str, undone: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        out.note(plan);
        let hint = match out.is_chatty() {
            true => "repeat with --yes when the plan above is what you want",
            false => "look at the plan with --dry-run, and repeat with --yes when it is what you want",
        };
        let error = CliError::refused(format!("{undone}: there is no terminal to ask for a confirmation"));
        return Err(error.hint(hint));
    }
    eprintln!("{}", fit::lines(&printable::lines(plan), fit::stderr_width()));
    eprint!("{} [y/N] ", printable::line(question));
    // Without a working stderr there is no question either, and the answer decides.
    let _ = std::io::stderr().flush();
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    })
    .await
    .map_err(anyhow::Error::from)?
    .map_err(anyhow::Error::from)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(CliError::refused(format!("{undone}: the answer was not yes")))
}
