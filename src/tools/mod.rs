//! Programs beside `pbm`: `pbm-speed-test` ([`speed_test`]) and `pbmctl` ([`ctl`]).

pub mod ctl;
pub mod speed;
pub mod speed_test;
