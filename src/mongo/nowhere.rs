//! A client without a server, for tests of code that needs a client but must not use it.

use mongodb::{
    Client,
    options::{ClientOptions, ServerAddress},
};
use std::{
    sync::{LazyLock, mpsc},
    time::Duration,
};

/// Every call fails at once. The client's own tasks run on a thread of their own, so they don't disturb a paused clock.
pub(crate) fn client() -> Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        let (send, made) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let hosts = vec![ServerAddress::parse("127.0.0.1:1").expect("an address")];
                let never = Duration::from_secs(24 * 3600);
                let options = ClientOptions::builder().hosts(hosts).direct_connection(true).heartbeat_freq(never);
                let options = options.server_selection_timeout(Duration::ZERO).build();
                send.send(Client::with_options(options).expect("a client")).expect("somebody waits");
                std::future::pending::<()>().await;
            });
        });
        made.recv().expect("a client")
    });
    CLIENT.clone()
}
