use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use pbmbox::restore::plan::UsersSource;
use pbmbox::restore::users::{Swapped, put_back};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::store::Store;
use crate::support::cluster::{Options, PASSWORD};
use crate::support::programs::Sandbox;
use crate::support::wait;
use std::time::Duration;

async fn create(server: &Server, names: &[&str]) {
    for name in names {
        let role = doc! { "createRole": format!("{name}Role"), "privileges": [], "roles": [] };
        server.run("shop", role).await.unwrap();
        let user = doc! { "createUser": name, "pwd": "throwaway", "roles": [format!("{name}Role")] };
        server.run("shop", user).await.unwrap();
    }
}

async fn all(server: &Server, coll: &str) -> Vec<Document> {
    let admin = server.client.database("admin");
    let found = admin.collection::<Document>(coll).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

fn names(documents: &[Document]) -> BTreeSet<&str> {
    documents.iter().map(|document| document.get_str("_id").unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_become_those_of_the_backup() {
    let (server, store) = (Server::start(Options::default()).await, Store::new());
    create(&server, &["ann", "bob"]).await;
    let (users, roles) = (all(&server, "system.users").await, all(&server, "system.roles").await);
    let mut source = UsersSource {
        users: Some(store.documents("admin", "pbmRUsers", &users).await),
        roles: Some(store.documents("admin", "pbmRRoles", &roles).await),
    };
    server.run("shop", doc! { "dropUser": "ann" }).await.unwrap();
    server.run("shop", doc! { "updateUser": "bob", "roles": [] }).await.unwrap();
    create(&server, &["eve"]).await;
    let changed = (all(&server, "system.users").await, all(&server, "system.roles").await);

    let cancel = CancellationToken::new();
    let put =
        async |source: &UsersSource| put_back(store.storage.as_ref(), &server.client, source, None, &cancel).await;

    // Nothing in the backup: nothing is taken away.
    assert_eq!(put(&UsersSource::default()).await.unwrap(), Swapped::default());
    // Damaged: nothing is changed.
    source.users.as_mut().unwrap().crc += 1;
    let error = format!("{:#}", put(&source).await.unwrap_err());
    assert!(error.contains("admin.pbmRUsers' is damaged"), "{error}");
    assert_eq!((all(&server, "system.users").await, all(&server, "system.roles").await), changed);
    source.users.as_mut().unwrap().crc -= 1;

    let swapped = put(&source).await.unwrap();
    assert_eq!(swapped, Swapped { users: 2, roles: 2, removed_users: 1, removed_roles: 1 });
    assert_eq!((all(&server, "system.users").await, all(&server, "system.roles").await), (users.clone(), roles));

    // Users only: roles stay.
    create(&server, &["eve"]).await;
    let swapped = put(&UsersSource { roles: None, ..source }).await.unwrap();
    assert_eq!(swapped, Swapped { users: 2, removed_users: 1, ..Swapped::default() });
    assert_eq!(names(&all(&server, "system.users").await), names(&users));
    assert!(names(&all(&server, "system.roles").await).contains("shop.eveRole"));
}

/// A user who is newer than the backup is gone in the middle of the restore.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_among_the_restored_users_learns_why_nothing_more_is_seen() {
    let sandbox = Sandbox::start(Options { auth: true, ..Options::default() }).await;
    let base = sandbox.backup(&[]);
    let create = doc! { "createUser": "late", "pwd": PASSWORD, "roles": ["root"] };
    sandbox.set.client().await.database("admin").run_command(create).await.expect("make a user");
    let late = ["restore", &base, "--wait", "-y", "--mongodb-uri", &sandbox.set.uri_as("late")];
    let ended = tokio::task::block_in_place(|| sandbox.pbm(&late));
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("the users are those of the backup now") && said.contains("`pbm describe-restore"), "{said}");
    wait::until("the end of the restore", Duration::from_secs(30), async || {
        sandbox.pbm(&["list", "--restore"]).ok().stdout.contains("done").then_some(())
    })
    .await;
}
