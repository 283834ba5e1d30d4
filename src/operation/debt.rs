//! Makes sure that features which operations switch off are switched on again, however the operations end.
//!
//! Before an operation switches a feature off, it records the debt in a field of its document ([`take`]). The agent
//! that ends the operation switches the feature on again and removes the field ([`pay`]). If all agents of the
//! operation died, another agent does this later ([`pay_forgotten`]). A new operation takes the debt over, so that the
//! feature is not switched on in the middle of it.

use crate::control::{Control, Debt, OpDocs, OpDocument};
use anyhow::Result;

/// Whether any operation has this debt.
pub(super) async fn is_owed(control: &Control, debt: Debt) -> Result<bool> {
    Ok(!control.restores.owing(debt).await?.is_empty() || !control.backups.owing(debt).await?.is_empty())
}

/// Records that only the operation `name` has this debt. Call this before the feature is switched off.
pub(super) async fn take<T: OpDocument>(control: &Control, docs: &OpDocs<T>, name: &str, debt: Debt) -> Result<()> {
    docs.owe(name, debt).await?;
    forgive_others(&control.backups, name, debt).await?;
    forgive_others(&control.restores, name, debt).await
}

async fn forgive_others<T: OpDocument>(docs: &OpDocs<T>, name: &str, debt: Debt) -> Result<()> {
    for other in docs.owing(debt).await?.into_iter().filter(|other| other != name) {
        docs.paid(&other, debt).await?;
    }
    Ok(())
}

/// Calls `switch_on` if the operation `name` has this debt. Returns whether it had.
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

/// Pays the debt of every operation that has ended, or was declared lost, without paying it. Returns the names of these
/// operations.
pub(super) async fn pay_forgotten<F: Future<Output = Result<()>>>(
    control: &Control,
    debt: Debt,
    switch_on: impl Fn() -> F,
) -> Result<Vec<String>> {
    let mut paid = Vec::new();
    pay_ended(&control.backups, debt, &switch_on, &mut paid).await?;
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
