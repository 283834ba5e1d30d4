//! Programs beside `pbm`: `pbm-speed-test` ([`speed_test`]), `pbmctl` ([`ctl`]) and the sandbox of the first steps
//! ([`sandbox`]).

pub mod ctl;
pub mod sandbox;
pub mod speed;
pub mod speed_test;
