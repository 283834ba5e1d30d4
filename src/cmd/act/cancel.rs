//! `pbm cancel-backup`.

use crate::cmd::io::{
    agents,
    context::Context,
    error::{CliError, Result},
    output::Message,
};
use crate::control::Order;
use crate::model::command::name;

/// Asks the agents to stop the running backup and to remove what it left.
pub async fn run(cx: &Context) -> Result<()> {
    let mut running = None;
    if agents::living_locks(&cx.control).await?.iter().any(|lock| lock.header.kind == name::BACKUP) {
        running = Some("the running backup".to_owned());
    }
    // One that has just begun holds no lock yet.
    if let Some(document) = cx.control.backups.unfinished().await?.first() {
        running = Some(format!("backup {}", document.get_str("name").unwrap_or_default()));
    }
    let Some(running) = running else {
        return Err(CliError::refused("no backup is running, so there is nothing to cancel")
            .hint("`pbm status -s running` shows what runs"));
    };
    cx.ready_to_write().await?;
    cx.control.commands.send(Order::CancelBackup).await?;
    cx.out.print(&Message::new(format!("Cancellation of {running} has started")));
    Ok(())
}
