//! `pbm-speed-test`: what to expect of a codec and of the storage, before the first backup.

use crate::cmd::{
    act::backup::parse_codec,
    io::{
        context::Context,
        error::{CliError, Kind, Result},
        launch,
        offered_values::offering,
        output::{Format, Outlet, Report},
        storage, units,
    },
    show::version::VersionArgs,
};
use crate::{
    cli::pages,
    compress::{check_level, level_remark},
    model::{build, compression::Compression, store::StoreKind},
    mongo::{self, Purpose},
    tools::speed::{self, Measured, Sample},
};
use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;
use std::{ffi::OsString, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

const NAME: &str = "pbm-speed-test";

/// Measure how fast this host compresses backups and sends them to the storage
///
/// One stream is measured, through the code that backups go through. A backup compresses and sends several collections at
/// a time.
#[derive(Debug, Parser)]
#[command(name = "pbm-speed-test", version = build::SHORT, subcommand_required = true)]
struct Cli {
    /// Connection string: for --sample-collection of a server that has it, for `storage` of a member of the config servers
    /// or of the replica set
    #[arg(long, global = true, help_heading = crate::cmd::GLOBAL, env = "PBM_MONGODB_URI", value_name = "URI", hide_env_values = true)]
    mongodb_uri: Option<String>,
    /// Form of the result
    #[arg(short, long, global = true, help_heading = crate::cmd::GLOBAL, value_name = "FORMAT", default_value = "text", value_parser = crate::cmd::format_parser())]
    out: Outlet,
    /// Codec: none, gzip, pgzip, snappy, lz4, s2 or zstd
    #[arg(long, global = true, help_heading = crate::cmd::GLOBAL, value_name = "CODEC", default_value = "s2", value_parser = offering(parse_codec, Compression::NAMES), hide_possible_values = true)]
    compression: Compression,
    /// Level of the codec
    #[arg(long, global = true, help_heading = crate::cmd::GLOBAL, value_name = "N", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    /// Take the data from this collection (its first 64 MiB, repeated) in place of made-up documents
    #[arg(short = 'c', long, global = true, help_heading = crate::cmd::GLOBAL, value_name = "DB.COLLECTION", value_parser = parse_namespace)]
    sample_collection: Option<(String, String)>,
    /// Amount of data in GiB
    #[arg(short, long, global = true, help_heading = crate::cmd::GLOBAL, value_name = "GIB", default_value = "1", value_parser = parse_size)]
    size_gb: f64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compress data, and throw the result away
    Compression,
    /// Compress data, write it to the configured storage, and remove it again
    Storage,
    /// Print the version
    Version {
        /// Only the number
        #[arg(long)]
        short: bool,
        /// Only the commit
        #[arg(long)]
        commit: bool,
        /// `json` for one JSON value, as --out json
        #[arg(long, value_name = "FORMAT", value_parser = ["json", ""])]
        format: Option<String>,
    },
    /// Write a completion script for a shell
    Completion {
        #[arg(value_parser = pages::SHELLS)]
        shell: String,
    },
}

fn parse_namespace(text: &str) -> Result<(String, String), String> {
    match text.split_once('.') {
        Some((db, coll)) if !db.is_empty() && !coll.is_empty() => Ok((db.to_owned(), coll.to_owned())),
        _ => Err("expected DB.COLLECTION".to_owned()),
    }
}

fn parse_size(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(size) if size > 0.0 && size <= 1e6 => Ok(size),
        _ => Err("expected a number above 0 and up to 1000000, such as 0.5".to_owned()),
    }
}

/// What was measured. The original prints text only, so the keys are ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    test: &'static str,
    /// `random`, or the collection.
    data: String,
    compression: Compression,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression_level: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_path: Option<String>,
    bytes: u64,
    stored_bytes: u64,
    ratio: f64,
    seconds: f64,
    /// Millions of bytes per second, before compression.
    mb_per_sec: f64,
    /// Millions of bytes per second, after compression.
    stored_mb_per_sec: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

fn size(bytes: u64) -> String {
    units::size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

impl Report for Measurement {
    fn text(&self) -> String {
        let level = self.compression_level.map(|level| format!(" (level {level})")).unwrap_or_default();
        let mut lines = vec![
            format!("data:        {} of {}", size(self.bytes), self.data),
            format!(
                "compression: {}{level}, ratio {:.2}: {} left",
                self.compression,
                self.ratio,
                size(self.stored_bytes)
            ),
            format!("time:        {:.2} s", self.seconds),
            format!("speed:       {:.1} MB/s of data", self.mb_per_sec),
        ];
        if let Some(path) = &self.storage_path {
            lines.insert(1, format!("storage:     {path}"));
            lines.push(format!("             {:.1} MB/s to the storage", self.stored_mb_per_sec));
        }
        lines.extend(self.notes.iter().map(|note| format!("note:        {note}")));
        lines.join("\n")
    }
}

/// The command line as data, for completion and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    pages::with_examples(Cli::command(), crate::cmd::io::examples::SPEED_TEST)
}

/// Runs one test; returns the exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    launch::parsed(command(), args, |cli: Cli| (cli.out.format(), start(cli)))
}

fn start(cli: Cli) -> Result<()> {
    let format = cli.out.format();
    match &cli.command {
        Command::Version { short, commit, format: wished } => {
            let json = wished.as_deref() == Some("json") && format.is_text();
            VersionArgs::new(*short, *commit).run(if json { Format::Json } else { format });
            Ok(())
        }
        Command::Completion { shell } => launch::completion(shell, command()),
        Command::Compression => launch::on_runtime(cli.compression()),
        Command::Storage => launch::on_runtime(cli.storage()),
    }
}

impl Cli {
    fn bytes(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked when it was parsed")]
        let bytes = (self.size_gb * f64::from(1 << 30)) as u64;
        bytes.max(1)
    }

    fn uri(&self, what: &str) -> Result<&str> {
        self.mongodb_uri.as_deref().filter(|uri| !uri.trim().is_empty()).ok_or_else(|| {
            CliError::usage(format!("no connection string, which {what} needs"))
                .hint("give --mongodb-uri or set PBM_MONGODB_URI, such as mongodb://user:password@host:27017")
        })
    }

    async fn sample(&self) -> Result<Sample> {
        check_level(self.compression, self.compression_level)
            .map_err(|reason| CliError::usage(reason).hint("give another --compression-level"))?;
        if let Some(remark) = level_remark(self.compression, self.compression_level) {
            self.out.format().note(&format!("Warning: {remark}"));
        }
        let Some((db, coll)) = &self.sample_collection else { return Ok(Sample::random(self.bytes())) };
        // Not the leader: on a sharded cluster it has no collections of users.
        let uri = self.uri("--sample-collection")?;
        let client = mongo::connect(uri, Purpose::Leader { app: NAME }).await?;
        Sample::of_collection(&client, db, coll, self.bytes()).await.map_err(|error| {
            CliError::from(error).hint("give a collection with documents, on the server of the connection string")
        })
    }

    async fn compression(&self) -> Result<()> {
        let sample = self.sample().await?;
        self.begin("");
        let it = speed::compression(&sample, self.bytes(), self.compression, self.compression_level).await?;
        self.print("compression", None, &sample, it);
        Ok(())
    }

    async fn storage(&self) -> Result<()> {
        let cx = Context::connect(Some(self.uri("`storage`")?), self.out.format()).await?;
        let conf = cx.config().await?.storage;
        let store = storage::open_here(&conf).await?;
        let sample = self.sample().await?;
        let path = storage::path(&conf);
        let mut notes = Vec::new();
        if conf.is_of(StoreKind::Blackhole) {
            notes.push("a storage of this type throws everything away".to_owned());
        }
        self.begin(&format!(" to {path}"));
        let run = bson::oid::ObjectId::new().to_hex();
        let mut term = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
        let measured = tokio::select! {
            measured = speed::storage(&sample, self.bytes(), self.compression, self.compression_level, store.as_ref(), &run) => {
                measured.map_err(|error| CliError::from(error).hint("check the storage's settings with `pbm config`"))
            }
            _ = tokio::signal::ctrl_c() => Err(interrupted()),
            _ = term.recv() => Err(interrupted()),
        };
        match measured {
            Ok(it) => self.print("storage", Some(path), &sample, it),
            Err(mut error) => {
                // Again after an interruption; after a failure the first attempt may have failed for the same reason.
                if let Err(left) = speed::remove(store.as_ref(), &run).await {
                    error.hints.push(format!(
                        "what was written could not be removed ({left}); remove it by hand: {}",
                        crate::layout::speed_test(&run)
                    ));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn data(&self) -> String {
        let of = |(db, coll): &(String, String)| format!("{db}.{coll}");
        self.sample_collection.as_ref().map_or_else(|| "random documents".to_owned(), of)
    }

    fn begin(&self, to: &str) {
        let amount = size(self.bytes());
        self.out.format().note(&format!("Compressing {amount} of {} by {}{to}", self.data(), self.compression));
    }

    fn print(&self, test: &'static str, storage_path: Option<String>, sample: &Sample, it: Measured) {
        let small = sample.is_small(it.bytes) && self.sample_collection.is_some();
        let note = || format!("only {} of data, repeated: more of it would compress less", size(sample.bytes()));
        self.out.format().print(&Measurement {
            test,
            data: self.data(),
            compression: self.compression,
            compression_level: self.compression_level,
            storage_path,
            bytes: it.bytes,
            stored_bytes: it.stored,
            ratio: it.ratio(),
            seconds: it.took.as_secs_f64(),
            mb_per_sec: it.rate(),
            stored_mb_per_sec: it.stored_rate(),
            notes: small.then(note).into_iter().collect(),
        });
    }
}

fn interrupted() -> CliError {
    CliError::new(Kind::Interrupted, "interrupted before the measurement was complete")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(text.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_originals_spellings_are_taken() {
        for text in [
            "pbm-speed-test compression",
            "pbm-speed-test compression -c shop.orders --size-gb 0.5 --mongodb-uri mongodb://h",
            "pbm-speed-test --compression=zstd --compression-level 3 storage -s 100",
            "pbm-speed-test storage --compression gzip --compression-level -2",
            "pbm-speed-test version --short",
            "pbm-speed-test version --commit --format json",
            "pbm-speed-test completion bash",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in [
            "pbm-speed-test",
            "pbm-speed-test compression -s 0",
            "pbm-speed-test compression -s -1",
            "pbm-speed-test compression -s much",
            "pbm-speed-test compression -s nan",
            "pbm-speed-test compression -c orders",
            "pbm-speed-test compression --compression rar",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("pbm-speed-test compression -s 0.25").expect("good").bytes(), 1 << 28);
    }

    #[test]
    fn the_result_tells_speed_and_ratio() {
        let mut it = Measurement {
            test: "storage",
            data: "random documents".into(),
            compression: Compression::Gzip,
            compression_level: Some(6),
            storage_path: Some("/srv/backups".into()),
            bytes: 1 << 30,
            stored_bytes: 1 << 29,
            ratio: 2.0,
            seconds: 4.0,
            mb_per_sec: 268.4,
            stored_mb_per_sec: 134.2,
            notes: vec!["n".into()],
        };
        assert_eq!(
            it.text(),
            "data:        1.0 GiB of random documents\nstorage:     /srv/backups\n\
             compression: gzip (level 6), ratio 2.00: 512.0 MiB left\ntime:        4.00 s\n\
             speed:       268.4 MB/s of data\n             134.2 MB/s to the storage\nnote:        n"
        );
        it.notes.clear();
        assert_eq!(
            serde_json::to_string(&it).expect("JSON"),
            concat!(
                r#"{"test":"storage","data":"random documents","compression":"gzip","compressionLevel":6,"#,
                r#""storagePath":"/srv/backups","bytes":1073741824,"storedBytes":536870912,"ratio":2.0,"seconds":4.0,"#,
                r#""mbPerSec":268.4,"storedMbPerSec":134.2}"#
            )
        );
    }
}
