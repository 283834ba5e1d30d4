//! `addConfigProfile`, `removeConfigProfile`: storages in addition to the main one (docs/format.md C.3.1, D.6).

use super::{Task, alone};
use crate::model::{
    command,
    config::{Config, StorageConf},
    rate::Rate,
};
use crate::mongo::admin::explain;
use crate::{
    config::{mask, same_place},
    storages::{place, used_before},
};
use anyhow::{Result, ensure};

/// Stores the profile if its storage can be used from this node.
pub(in crate::agent) async fn add(task: Task, name: String, mut storage: StorageConf) -> Result<()> {
    alone::run(task, command::name::ADD_PROFILE, async |task| {
        check(&name)?;
        let control = &task.node.control;
        let known = control.config.profiles().await?;
        let stored = known.iter().find(|known| known.name.as_ref() == Some(&name)).map(|known| &known.storage);
        mask::unmask(&mut storage, stored)?;
        let settings =
            place::named(&Config { name: Some(name.clone()), storage: storage.clone(), ..Config::default() });
        match task.node.open_to_write(&settings, Rate::default()).await {
            Ok(_) => {}
            // The settings of a profile may be changed while its storage is missing, because nothing is written to the
            // storage.
            Err(error) if error.is::<used_before::Lost>() => tracing::warn!("{}", explain(&error)),
            Err(error) => return Err(error.context("look for the storage's mark .pbm.init, or write it")),
        }
        control.config.put_profile(&name, &storage, control.cluster_time().await?).await?;
        tracing::info!("profile saved");
        Ok(())
    })
    .await
}

/// Removes the profile, and its backups from the list of backups. The files of the backups stay.
pub(in crate::agent) async fn remove(task: Task, name: String) -> Result<()> {
    alone::run(task, command::name::REMOVE_PROFILE, async |task| {
        check(&name)?;
        let control = &task.node.control;
        place::find(&control.config.profiles().await?, &name)?;
        // The profile is removed last, so that the same command can finish the work after an interruption.
        let forgotten = control.backups.drop_profile(&name).await?;
        let known = control.config.profiles().await?;
        let settings = &place::find(&known, &name)?.storage;
        control.config.remove_profile(&name).await?;
        let main = control.config.main().await?.map(|config| config.storage);
        let others = known.iter().filter(|it| it.name.as_ref() != Some(&name)).map(|it| &it.storage).chain(&main);
        if !others.into_iter().any(|other| same_place(other, settings)) {
            used_before::forget(control, settings).await?;
        }
        tracing::info!("profile {name} is removed and {forgotten} backups are forgotten; their files stay");
        Ok(())
    })
    .await
}

/// Fails if the name can't be the name of a profile.
fn check(name: &str) -> Result<()> {
    ensure!(!place::is_main(name), "'{name}' can't be the name of a profile");
    Ok(())
}
