//! The parts of `workflow-server`.
//!
//! | module | purpose |
//! |---|---|
//! | [`http`] | serves health, metrics, lists, live events and the web UI |
//! | [`maintenance`] | refreshes the stored counts and creates partitions |
//! | [`migrate`] | installs and updates the extension |
//! | [`watch`] | reads live notifications for people; misses events while the database is unavailable |
//! | [`wfformat`], [`replay`] | parses a recorded workflow and replays it through the functions of the database |

pub mod http;
pub mod maintenance;
pub mod migrate;
pub mod replay;
pub mod watch;
pub mod wfformat;
