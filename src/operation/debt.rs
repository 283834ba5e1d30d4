//! What operations switch off while they run comes back in every ending.
//!
//! An operation records the debt in its document, in a field of ours, before it switches something off ([`take`]). Whoever
//! ends the operation switches it on again and removes the field ([`pay`]). If all of its agents died, another agent does it
//! later ([`pay_forgotten`]). A new operation takes the debt over, so that nothing is switched on in the middle of it.

use crate::control::{Control, Debt, OpDocs, OpDocument};
use anyhow::Result;

/// Does any operation owe it?
pub(super) async fn is_owed(control: &Control, debt: Debt) -> Result<bool> {
    Ok(!control.restores.owing(debt).await?.is_empty()
        || (debt.is_of_backups() && !control.backups.owing(debt).await?.is_empty()))
}

/// Records that the operation `name` owes it, alone. Call this before the switch.
pub(super) async fn take<T: OpDocument>(control: &Control, docs: &OpDocs<T>, name: &str, debt: Debt) -> Result<()> {
    docs.owe(name, debt).await?;
    if debt.is_of_backups() {
        forgive_others(&control.backups, name, debt).await?;
    }
    forgive_others(&control.restores, name, debt).await
}

async fn forgive_others<T: OpDocument>(docs: &OpDocs<T>, name: &str, debt: Debt) -> Result<()> {
    for other in docs.owing(debt).await?.into_iter().filter(|other| other != name) {
        docs.paid(&other, debt).await?;
    }
    Ok(())
}

/// Switches it on again with `switch_on` if the operation `name` owes it. Returns whether it did.
pub(super) async fn pay<T: OpDocument, F: Future<Output = Result<()>>>(
    docs: &OpDocs<T>,
    name: &str,
    debt: Debt,
    switch_on: impl FnOnce() -> F,
) -> Result<bool> {
    if !docs.owing(debt).await?.iter().any(|owing| owing == name) {
        return Ok(false);
    }
    switch_on().await?;
    docs.paid(name, debt).await?;
    Ok(true)
}

/// Switches it on again for every operation that ended, or was declared lost, without doing so. Returns their names.
pub(super) async fn pay_forgotten<F: Future<Output = Result<()>>>(
    control: &Control,
    debt: Debt,
    switch_on: impl Fn() -> F,
) -> Result<Vec<String>> {
    let mut paid = Vec::new();
    if debt.is_of_backups() {
        pay_ended(&control.backups, debt, &switch_on, &mut paid).await?;
    }
    pay_ended(&control.restores, debt, &switch_on, &mut paid).await?;
    Ok(paid)
}

async fn pay_ended<T: OpDocument, F: Future<Output = Result<()>>>(
    docs: &OpDocs<T>,
    debt: Debt,
    switch_on: &impl Fn() -> F,
    paid: &mut Vec<String>,
) -> Result<()> {
    for name in docs.owing(debt).await? {
        if docs.has_ended(&name).await? && pay(docs, &name, debt, switch_on).await? {
            paid.push(name);
        }
    }
    Ok(())
}
