//! A simulated process. Its tasks can be suspended, as by SIGSTOP, and killed.

use futures::task::AtomicWaker;
use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
};

const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const DEAD: u8 = 2;

/// The process of one agent.
#[derive(Debug, Clone, Default)]
pub(in crate::agent) struct Process(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    tasks: Mutex<Vec<Arc<AtomicWaker>>>,
}

impl Process {
    /// Runs `work` while the process runs. Also returns when the process is killed.
    pub fn run(&self, work: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let (shared, waker) = (self.0.clone(), Arc::new(AtomicWaker::new()));
        shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(waker.clone());
        async move {
            let mut work = pin!(work);
            poll_fn(|cx| {
                waker.register(cx.waker());
                match shared.state.load(Ordering::SeqCst) {
                    RUNNING => work.as_mut().poll(cx),
                    STOPPED => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            })
            .await;
        }
    }

    pub fn stop(&self) {
        self.change(RUNNING, STOPPED);
    }

    pub fn go_on(&self) {
        self.change(STOPPED, RUNNING);
    }

    pub fn kill(&self) {
        self.0.state.store(DEAD, Ordering::SeqCst);
        self.wake();
    }

    pub fn is_dead(&self) -> bool {
        self.0.state.load(Ordering::SeqCst) == DEAD
    }

    fn change(&self, from: u8, to: u8) {
        // A dead process stays dead, so the exchange may fail.
        let _ = self.0.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for task in self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            task.wake();
        }
    }
}
