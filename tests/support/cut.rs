//! A network that can be cut: programs run in a network namespace of their own, where nothing listens but tunnels to the
//! servers outside. Servers and other programs notice nothing of it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where system administration programs are, too.
const PATHS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The namespace and its tunnels; gone when dropped.
#[derive(Debug)]
pub struct Tunnels {
    /// Keeps the namespace alive.
    keeper: Child,
    cut: watch::Sender<bool>,
    /// Of the safe ones.
    _never: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Tunnels {
    /// Tunnels to local servers under the same addresses; `safe` ones are never cut.
    ///
    /// # Panics
    /// Where the system does not let us make a network namespace.
    pub fn open(safe: &[String], others: &[String]) -> Self {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 86400"])
            .env("PATH", PATHS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare, of the package util-linux");
        let mut said = String::new();
        let _ = BufReader::new(keeper.stdout.take().expect("a pipe")).read_line(&mut said);
        if said.trim() != "up" {
            let _ = keeper.kill();
            let _ = keeper.wait();
            panic!(
                "this test makes a network namespace: run it as root, with `ip` of the package iproute2 on the PATH"
            );
        }
        let inside = File::open(namespace(&keeper)).expect("open the namespace");
        let (cut, never) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut tasks = JoinSet::new();
        for (addresses, cut) in [(safe, &never), (others, &cut)] {
            for (address, listener) in addresses.iter().zip(listen_inside(&inside, addresses)) {
                tasks.spawn(serve(listener, address.clone(), cut.subscribe()));
            }
        }
        Self { keeper, cut, _never: never, _tasks: tasks }
    }

    /// To run a program inside, with nothing from our own environment.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace(&self.keeper))).arg(program);
        command.env_clear().env("PATH", PATHS).stdin(Stdio::null());
        command
    }

    /// From now on nothing comes through, neither in open connections nor in new ones, and nobody is told so.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Everything comes through again. Connections that stood still end.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn namespace(keeper: &Child) -> String {
    format!("/proc/{}/ns/net", keeper.id())
}

/// A socket belongs for ever to the namespace in which it was made, a thread only as long as it wants to.
fn listen_inside(inside: &File, addresses: &[String]) -> Vec<TcpListener> {
    let listen = || {
        move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the namespace");
        addresses.iter().map(|address| TcpListener::bind(address).expect("listen inside")).collect()
    };
    std::thread::scope(|scope| scope.spawn(listen).join().expect("no panic"))
}

async fn serve(listener: TcpListener, to: String, mut cut: watch::Receiver<bool>) {
    listener.set_nonblocking(true).expect("a socket for tokio");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket for tokio");
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut inner, _)) = listener.accept().await else { return };
        let _ = cut.wait_for(|cut| !cut).await;
        let (to, mut cut) = (to.clone(), cut.clone());
        connections.spawn(async move {
            let Ok(mut outer) = TcpStream::connect(&to).await else { return };
            let stands = tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => false,
                _ = cut.wait_for(|cut| *cut) => true,
            };
            if stands {
                let _ = cut.wait_for(|cut| !cut).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
