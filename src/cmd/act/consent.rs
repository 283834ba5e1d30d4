//! The user's consent to a deletion.

use crate::cmd::io::{ask, context::Context, error::Result};
use clap::Args;

#[derive(Debug, Args)]
pub struct Consent {
    /// Show what would go and why, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask
    #[arg(short, long)]
    pub yes: bool,
}

impl Consent {
    /// Shows the plan and asks whether to go on. With `--yes` it does not ask.
    pub async fn given(&self, cx: &Context, plan: &str) -> Result<()> {
        if self.yes {
            cx.out.note(plan);
            return Ok(());
        }
        ask::confirm(cx.out, plan, "Delete this?", "nothing was deleted").await
    }
}
