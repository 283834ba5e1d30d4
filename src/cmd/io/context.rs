//! What every subcommand receives: the connection to the leader replica set, and how to print.

use super::{
    error::{CliError, Kind, Result},
    output::Format,
};
use crate::control::Control;
use crate::model::config::Config;
use crate::mongo::{self, Purpose, majority};
use crate::preflight::gather::{Asker, Depth};
use crate::topo::cluster::{self, Cluster};
use mongodb::Client;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The name of our connections in the server's log.
const APP: &str = "pbm-ctl";

/// A connected command line.
#[derive(Debug)]
pub struct Context {
    pub control: Control,
    pub out: Format,
    /// The connection string, for other replica sets.
    pub uri: String,
    /// Why the majority of the leader replica set can't confirm anything; `None` if it can.
    pub no_majority: Option<String>,
    /// Ends the background tasks.
    stop: CancellationToken,
    /// The mistakes in the stored configuration have been reported.
    warned: AtomicBool,
}

impl Context {
    /// Connects to the leader replica set.
    ///
    /// # Errors
    /// No connection string, an unreachable server, a router or a standalone server.
    pub async fn connect(uri: Option<&str>, out: Format) -> Result<Self> {
        let uri = uri.filter(|uri| !uri.trim().is_empty()).ok_or_else(|| {
            CliError::usage("no connection string")
                .hint("give --mongodb-uri or set PBM_MONGODB_URI to the address of a member of the replica set, such as mongodb://user:password@host:27017")
        })?;
        let connected = cluster::connect_leader(uri, APP).await;
        let (client, _) = connected.map_err(|error| CliError::from(error).or(Kind::Connection))?;
        let mut cx = Self::around(client, uri, out);
        // This check comes first, because every operation that waits for the majority would block for long without a message.
        if let Some(why) = majority::lack(cx.control.client()).await {
            let asked_for = majority::is_asked_for(cx.control.client());
            let means = if asked_for {
                "what is shown is confirmed by one member only"
            } else {
                "as w=1 allows, one member confirms"
            };
            cx.out.note(&format!("Warning: the leader replica set has {why}; {means}"));
            cx.control = Control::unconfirmed(cx.control.client().clone());
            cx.no_majority = Some(why);
        }
        Ok(cx)
    }

    /// As [`Self::connect`], also for a user who may not ask who the leader is: then the given replica set counts as it.
    pub async fn connect_anyhow(uri: Option<&str>, out: Format) -> Result<Self> {
        match (Self::connect(uri, out).await, uri) {
            (Err(error), Some(uri)) if error.is_denied() => {
                let client = mongo::connect(uri, Purpose::Leader { app: APP }).await?;
                Ok(Self::around(client, uri, out))
            }
            (result, _) => result,
        }
    }

    /// A command line with this connection.
    pub fn around(client: Client, uri: &str, out: Format) -> Self {
        Self {
            control: Control::new(client),
            out,
            uri: uri.to_owned(),
            no_majority: None,
            stop: CancellationToken::new(),
            warned: AtomicBool::new(false),
        }
    }

    /// Asks every member directly, and the control collections.
    pub fn asker(&self, patience: Duration, depth: Depth) -> Asker<'_> {
        Asker { control: &self.control, uri: &self.uri, app: APP, patience, depth }
    }

    /// Prepares for sending commands and waiting: the control collections exist, the bell is heard.
    ///
    /// # Errors
    /// There is no majority to confirm the writes, and the connection string asks for one.
    pub async fn ready_to_write(&self) -> Result<()> {
        if let Some(why) = self.no_majority.as_ref().filter(|_| majority::is_asked_for(self.control.client())) {
            return Err(CliError::refused(format!("nothing can be confirmed in the leader replica set: {why}"))
                .hint("start the members that are down; nothing was started here")
                .hint(
                    "to work with fewer members until then, give readConcernLevel=local&w=1 in the connection strings of \
                     pbm and of all agents: what one member alone has confirmed is lost if it is lost",
                ));
        }
        // An insert into a missing collection would make it without its cap and its unique indexes.
        self.control.set_up().await?;
        let (bell, stop) = (self.control.bell.clone(), self.stop.clone());
        tokio::spawn(async move { bell.follow(stop).await });
        Ok(())
    }

    /// The replica sets of the cluster.
    pub async fn cluster(&self) -> Result<Cluster> {
        Ok(cluster::read(self.control.client()).await?)
    }

    /// Their names.
    pub async fn members(&self) -> Result<Vec<String>> {
        Ok(self.cluster().await?.names())
    }

    /// Reads the main configuration. Values in it that can't be used are reported once.
    ///
    /// # Errors
    /// There is none.
    pub async fn config(&self) -> Result<Config> {
        let config = self.control.config.main().await?.ok_or_else(|| {
            CliError::refused("there is no configuration yet, so no storage is known")
                .hint("write the storage settings into a file and run `pbm config --file FILE`")
        })?;
        if !config.mistakes.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            for mistake in &config.mistakes {
                self.out.note(&format!("Warning: in the stored configuration {mistake}"));
            }
            self.out.note("`pbm config --set KEY=VALUE` corrects a setting, `pbm config --unset KEY` takes it back");
        }
        Ok(config)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
