//! Command lines in general: manual pages, completion scripts, and the spellings that scripts for the original use.

pub mod pages;
pub mod pflag;
