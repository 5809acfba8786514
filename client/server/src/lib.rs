//! The parts of `workflow-server`.
//!
//! | module | purpose |
//! |---|---|
//! | [`http`] | serves health, metrics, lists, live events and the web UI |
//! | [`maintenance`] | refreshes the stored counts and creates partitions |
//! | [`migrate`] | installs the extension and updates it |
//! | [`watch`] | shows events as they happen, for people; misses those that happen while it cannot listen |
//! | [`wfformat`], [`replay`] | reads a recorded workflow and runs it again through the database's functions |

pub mod http;
pub mod maintenance;
pub mod migrate;
pub mod replay;
pub mod watch;
pub mod wfformat;
