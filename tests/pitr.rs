//! Point-in-time recovery: restores to a moment, and replays of saved oplog onto what is there.

mod fixtures;
