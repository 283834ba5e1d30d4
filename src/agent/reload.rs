//! Applies settings that change while the agent runs: on SIGHUP, and when the settings file changes.

use super::{service, settings::Given, settings::Settings};
use crate::log::Log;
use anyhow::{Context, Result};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// Reacts to signals and to changes of the settings file.
pub(super) struct Reload {
    given: Given,
    held: Settings,
    log: Log,
    hangup: Signal,
    watch: Option<Watch>,
}

impl Reload {
    /// After this call a SIGHUP does not end the process any more.
    ///
    /// # Errors
    /// The process can't listen for the signal.
    pub fn new(given: Given, held: Settings, log: Log) -> Result<Self> {
        let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        let watch = given.file().and_then(|file| match Watch::new(file) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!("changes of {} will only be seen after a SIGHUP: {error}", file.display());
                None
            }
        });
        Ok(Self { given, held, log, hangup, watch })
    }

    pub async fn follow(mut self, stop: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = self.hangup.recv() => true,
                () = changed(self.watch.as_mut()) => false,
            };
            if asked {
                service::reloading();
                self.read(true);
                service::reloaded();
            } else {
                self.read(false);
            }
        }
    }

    /// Applies the settings that can change at run time. With `reopen`, opens the log file again even if its name is
    /// the same.
    fn read(&mut self, reopen: bool) {
        let settings = match self.given.settle() {
            Ok(settings) => settings,
            Err(error) => {
                tracing::error!("the settings stay as they were: {error:#}");
                if reopen && let Err(error) = self.log.change(&self.held.log) {
                    tracing::error!("the log stays where it was: {error:#}");
                }
                return;
            }
        };
        let new_log = settings.log != self.held.log;
        if !reopen && settings == self.held {
            return;
        }
        if reopen || new_log {
            match self.log.change(&settings.log) {
                Ok(()) if new_log => tracing::info!("the log goes on as {:?}", settings.log),
                Ok(()) => tracing::info!("SIGHUP: the log was opened again"),
                Err(error) => tracing::error!("the log stays where it was: {error:#}"),
            }
        }
        for remark in &settings.remarks {
            tracing::warn!("{remark}");
        }
        if (&settings.uri, settings.parallel) != (&self.held.uri, self.held.parallel) {
            tracing::warn!(
                "connection string and dump-parallel-collections of the settings file count from the next start on"
            );
        }
        self.held = settings;
    }
}

async fn changed(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Watches a file's content. It watches the folder, because editors and configuration managers replace the file, or the
/// link to it, by another one.
struct Watch {
    events: mpsc::Receiver<()>,
    file: PathBuf,
    content: Vec<u8>,
}

impl Watch {
    fn new(file: &Path) -> std::io::Result<Self> {
        let folder = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        inotify::add_watch(&inotify, folder, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE)?;
        let content = fs::read(file)?;
        let (send, events) = mpsc::channel(1);
        // The thread sleeps in the kernel until the process ends.
        std::thread::Builder::new().name("settings".to_owned()).stack_size(64 << 10).spawn(move || {
            let mut happened = [0; 4096];
            // Only the content of the file matters and not the kind of event, so one waiting event is enough.
            while rustix::io::read(&inotify, &mut happened).is_ok() && !send.is_closed() {
                let _ = send.try_send(());
            }
        })?;
        Ok(Self { events, file: file.to_owned(), content })
    }

    /// Waits until the content of the file has changed. A file that is missing or empty for a moment does not count.
    async fn changed(&mut self) {
        while self.events.recv().await.is_some() {
            match fs::read(&self.file) {
                Ok(content) if !content.is_empty() && content != self.content => {
                    self.content = content;
                    return;
                }
                _ => {}
            }
        }
        std::future::pending().await
    }
}
