//! The one test binary: everything that needs processes or servers.

mod architecture;
mod cli;
mod compat;
mod doctor;
mod dump;
mod export;
mod faults;
mod features;
mod format;
mod help;
mod legacy;
mod logical;
mod looking;
mod pitr;
mod profiles;
mod programs;
mod remains;
mod replay;
mod restore;
mod retention;
mod selective;
mod sharded;
mod slicing;
mod storage;
mod stores;
mod support;
