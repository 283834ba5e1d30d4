//! Point-in-time recovery: restores to a moment, and replays of saved oplog onto what is there.

mod fixtures;
mod in_place;
mod refusals;
mod replay;
mod saved;
mod slicers;
