//! `addConfigProfile`, `removeConfigProfile`: storages beside the main one (spec/format.md C.3.1, D.6).

use super::{Task, alone};
use crate::config::{mask, open, places};
use crate::model::command::{ProfileCmd, name};
use anyhow::{Context, Result, ensure};

/// Stores the profile once its storage can be used from here.
pub(in crate::agent) async fn add(task: Task, command: Option<ProfileCmd>) -> Result<()> {
    alone::run(task, name::ADD_PROFILE, async |task| {
        let mut profile = named(command)?;
        let control = &task.node.control;
        let known = control.config.profiles().await?;
        let stored = known.iter().find(|known| known.name.as_ref() == Some(&profile.name)).map(|known| &known.storage);
        mask::unmask(&mut profile.storage, stored)?;
        let store = task.node.open_place(&profile.storage).await?;
        open::initialise(store.as_ref()).await.context("look for the storage's mark .pbm.init, or write it")?;
        control.config.put_profile(&profile.name, &profile.storage, control.cluster_time().await?).await?;
        tracing::info!("profile saved");
        Ok(())
    })
    .await
}

/// Forgets the profile and its backups, whose files stay.
pub(in crate::agent) async fn remove(task: Task, command: Option<ProfileCmd>) -> Result<()> {
    alone::run(task, name::REMOVE_PROFILE, async |task| {
        let ProfileCmd { name, .. } = named(command)?;
        let control = &task.node.control;
        places::find(&control.config.profiles().await?, &name)?;
        // The profile last: cut short, the same command goes on.
        let forgotten = control.backups.drop_profile(&name).await?;
        control.config.remove_profile(&name).await?;
        tracing::info!("profile {name} is removed and {forgotten} backups are forgotten; their files stay");
        Ok(())
    })
    .await
}

fn named(command: Option<ProfileCmd>) -> Result<ProfileCmd> {
    let profile = command.context("the command names no profile")?;
    ensure!(!places::is_main(&profile.name), "'{}' can't be the name of a profile", profile.name);
    Ok(profile)
}
