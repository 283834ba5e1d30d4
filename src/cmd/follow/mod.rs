//! Follows an operation to its end, as far as somebody wants to wait.
//!
//! [`follow`] is the only loop. There are two kinds of operations: a [`document::Document`] shows the end of an operation in
//! its status, and a [`lock::Lock`] is given back at the end, and the log then has the result.
//!
//! No command waits for ever. While it waits, it also ends operations of lost agents ([`reap`]), and both kinds end the
//! waiting with an error if there is no sign of life for long.

pub mod document;
pub mod give_up;
pub mod lock;
pub mod on_storage;

use crate::cmd::io::{
    context::Context,
    error::{CliError, Kind, Result},
};
use crate::config::duration;
use crate::operation::reap;
use clap::Args;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often lost operations are looked for.
const REAP: Duration = Duration::from_secs(4);
/// The longest that one reading may take.
const READ: Duration = Duration::from_secs(15);

/// Whether and how long to wait for the end of what an agent does.
#[derive(Debug, Default, Args)]
pub struct Waiting {
    /// Wait for the end
    #[arg(short, long)]
    pub wait: bool,
    /// Wait no longer than this, such as 30m or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    wait_time: Option<Duration>,
}

impl Waiting {
    /// For ever.
    pub const FOREVER: Self = Self { wait: true, wait_time: None };

    /// How long to wait at most.
    pub fn limit(&self) -> Option<Duration> {
        limit(self.wait_time)
    }
}

/// What counts of a `--wait-time`: as in the original nothing up to a second.
pub fn limit(given: Option<Duration>) -> Option<Duration> {
    given.filter(|limit| *limit > Duration::from_secs(1))
}

/// An operation that agents carry out, by the place where its end is seen.
pub trait Followed {
    /// What is known at the end.
    type End;

    /// Looks once; returns the end if the operation is over.
    ///
    /// # Errors
    /// It failed, or nothing is heard of it any more.
    async fn look(&mut self, cx: &Context) -> Result<Option<Self::End>>;

    /// Whether the last look found a server that answers and an operation that has begun, so that lost agents can be looked for.
    fn may_reap(&self) -> bool;

    /// The error when `limit` is over.
    fn over(&self, limit: Duration) -> CliError;

    /// The error when the user presses Ctrl-C.
    async fn interrupted(&self, cx: &Context) -> CliError;
}

/// Follows the operation to its end.
///
/// # Errors
/// It failed, nothing is heard of it any more, `limit` is over, or SIGINT came.
pub async fn follow<F: Followed>(cx: &Context, mut it: F, limit: Option<Duration>) -> Result<F::End> {
    let interrupted = tokio::select! {
        ended = watch(cx, &mut it) => return ended,
        () = runs_out(limit) => false,
        () = give_up::interruption() => true,
    };
    Err(if interrupted { it.interrupted(cx).await } else { it.over(limit.unwrap_or_default()) })
}

async fn watch<F: Followed>(cx: &Context, it: &mut F) -> Result<F::End> {
    let mut reap_at = Instant::now() + REAP;
    loop {
        let mut waiter = cx.control.bell.waiter();
        if let Some(end) = it.look(cx).await? {
            return Ok(end);
        }
        // After the look: a lost operation should be seen as lost before it is ended.
        if Instant::now() >= reap_at && it.may_reap() {
            // The next look finds the operations that this ends; a failure, too.
            let _ = timeout(READ, reap::end_all_lost(&cx.control)).await;
            reap_at = Instant::now() + REAP;
        }
        waiter.next().await;
    }
}

/// Returns when the limit is over; never, if there is none.
async fn runs_out(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// The error for an operation that goes on after the user has interrupted us.
fn goes_on(what: &str) -> CliError {
    CliError::new(Kind::Interrupted, format!("interrupted: {what} goes on without us"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::io::output::Format;

    /// Ends, well or badly, at the second look; or never.
    struct Fake {
        looks: usize,
        end: Option<Result<&'static str, &'static str>>,
    }

    impl Followed for Fake {
        type End = &'static str;

        async fn look(&mut self, _: &Context) -> Result<Option<&'static str>> {
            self.looks += 1;
            let end = self.end.filter(|_| self.looks == 2);
            end.transpose().map_err(CliError::failed)
        }

        fn may_reap(&self) -> bool {
            false
        }

        fn over(&self, limit: Duration) -> CliError {
            CliError::failed(format!("over after {} ms", limit.as_millis()))
        }

        async fn interrupted(&self, _: &Context) -> CliError {
            CliError::failed("interrupted")
        }
    }

    #[tokio::test]
    async fn an_operation_is_followed_to_its_end_or_to_the_limit() {
        let client = mongodb::Client::with_uri_str("mongodb://127.0.0.1:1").await.expect("a client");
        let cx = Context::around(client, "", Format::Quiet);
        let followed = async |end, limit| {
            let end = follow(&cx, Fake { looks: 0, end }, limit).await;
            end.map_err(|error| error.source.to_string())
        };
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        let ends = tokio::join!(
            followed(Some(Ok("well")), None),
            followed(Some(Err("badly")), Some(long)),
            followed(None, Some(short)),
        );
        assert_eq!(ends, (Ok("well"), Err("badly".to_owned()), Err("over after 20 ms".to_owned())));
    }

    #[test]
    fn a_limit_of_a_second_is_none() {
        let second = Duration::from_secs(1);
        assert_eq!([limit(None), limit(Some(second)), limit(Some(2 * second))], [None, None, Some(2 * second)]);
    }
}
