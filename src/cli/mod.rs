//! Command lines in general: manual pages, completion scripts, the spellings that scripts for the original use, and signals.

pub mod pages;
pub mod pflag;
pub mod signals;
