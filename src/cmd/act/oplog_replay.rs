//! `pbm oplog-replay`: checks that the window is saved, queues the command, follows it.

use super::{
    checks,
    restore::{Slicing, TAKEN_WITHIN, complete},
};
use crate::cmd::{
    follow::{
        Waiting,
        document::{self, Document, Goal},
        follow,
        give_up::{self, Sent},
    },
    io::{
        ask,
        context::Context,
        error::{CliError, Result},
        output::Report,
        remapping::{Remapping, parse_remapping},
        times, units,
    },
};
use crate::control::Order;
use crate::model::{
    command::{self, ReplayCmd},
    restore::RestoreMeta,
    status::Status,
};
use crate::preflight::Operation;
use crate::restore::{plan::slices, replay};
use bson::Timestamp;
use clap::Args;
use serde::Serialize;
use std::io::IsTerminal;

/// Apply saved oplog to the data that is there
///
/// For data that was brought to the start by other means, such as a snapshot of the volumes. Operations whose documents or
/// collections are not there are left out and counted. Indexes are created and dropped as the oplog says.
#[derive(Debug, Args)]
pub struct OplogReplay {
    /// Apply from this moment, itself included
    ///
    /// 2026-03-01T10:20:30 is UTC; an offset (+02:00, Z) can follow. T,I is a cluster time in Unix seconds and increment.
    /// A time without an increment means T,0, so a start includes all operations of its second, and an end none of them.
    /// Fractions of a second are cut.
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    start: Timestamp,
    /// Apply up to this moment, itself included
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    end: Timestamp,
    /// Where the oplog of other replica sets goes in this cluster: CLUSTER=SAVED,...
    #[arg(long, value_name = "MAP", env = "PBM_REPLSET_REMAPPING", value_parser = parse_remapping)]
    replset_remapping: Option<Remapping>,
    #[command(flatten)]
    waiting: Waiting,
    /// Don't ask (nobody is asked without a terminal)
    #[arg(short, long)]
    yes: bool,
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Replayed {
    name: String,
    #[serde(skip)]
    status: Status,
    #[serde(skip)]
    sharded: bool,
    #[serde(skip)]
    slicing: Slicing,
}

impl Report for Replayed {
    fn text(&self) -> String {
        if self.status != Status::Done {
            let name = &self.name;
            return format!("Oplog replay {name} is running; `pbm describe-restore {name}` shows how it ends");
        }
        complete(&format!("Oplog replay {}", self.name), self.sharded, self.slicing)
    }
}

impl OplogReplay {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let config = cx.config().await?;
        let cluster = cx.cluster().await?;
        let map = self.replset_remapping.clone().unwrap_or_default();
        let chunks = cx.control.chunks.all().await?;
        replay::covered(&cluster.names(), &map, &chunks, self.start, self.end).map_err(|problems| {
            CliError::refused(format!("the oplog can't be replayed, nothing was changed: {}", problems.join("; ")))
                .hint("`pbm status -s backups` and `pbm list` show what is saved; `pbm config --force-resync` reads the storage again")
        })?;
        cx.ready_to_write().await?;
        checks::nothing_runs(&cx.control).await?;
        checks::before(cx, Operation::Replay).await?;
        let window = format!("{} to {}", slices::moment(self.start), slices::moment(self.end));
        // The original never asks, so neither are scripts asked.
        if !self.yes && std::io::stdin().is_terminal() {
            let plan =
                format!("The saved oplog from {window} is applied to the data that is there, over whatever is newer.");
            ask::confirm(cx.out, &plan, "Start the replay?", "nothing was changed").await?;
        }

        let name = units::restore_name(jiff::Timestamp::now());
        cx.out.note(&format!("Starting oplog replay {name} from {window}"));
        let rs_map = map.iter().map(|(from, to)| (from.clone(), to.into())).collect();
        let command = ReplayCmd { name: name.clone(), start: self.start, end: self.end, rs_map };
        give_up::heed_interruptions();
        let opid = cx.control.commands.send(Order::Replay(command)).await?.to_hex();
        let sent = Sent { kind: command::name::REPLAY, opid: &opid };
        document::appears::<RestoreMeta>(cx, &name, sent, TAKEN_WITHIN).await?;
        let goal = if self.waiting.wait { Goal::Ended } else { Goal::Started };
        let meta = follow(cx, Document::<RestoreMeta>::new(cx, &name, goal), self.waiting.limit()).await?;
        let slicing = Slicing::after(cx, &config).await?;
        cx.out.print(&Replayed { name, status: meta.status, sharded: cluster.sharded, slicing });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_the_originals() {
        let mut done = Replayed { name: "r".into(), status: Status::Done, sharded: false, slicing: Slicing::Off };
        assert_eq!(serde_json::to_string(&done).expect("json"), r#"{"name":"r"}"#);
        assert_eq!(done.text(), "Oplog replay r is complete");
        done.status = Status::Running;
        assert!(done.text().contains("describe-restore r"));
    }
}
