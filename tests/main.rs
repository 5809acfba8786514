//! All tests run against real servers, which `cargo xtask test` installs. Most tests have a database each in one shared
//! cluster; tests that stop servers start their own.

mod client;
mod extension {
    mod acting;
    mod attack;
    mod bounds;
    mod claims;
    mod consumers;
    mod counts;
    mod creation;
    mod deletions;
    mod dependencies;
    mod dependents;
    mod direct;
    mod errors;
    mod grants;
    mod guard;
    mod history;
    mod members;
    mod nested;
    mod parents;
    mod races;
    mod requests;
    mod restore;
    pub mod roles;
    mod settings;
    mod sql_lint;
    mod tenants;
    mod transition;
    mod transition_many;
    mod triggers;
    mod undone;
}
mod feed {
    mod acknowledgements;
    mod chaos;
    mod copies;
    pub mod events;
    mod follow;
    mod isolation;
    mod leases;
    mod lossy;
    mod notifier;
    mod plans;
    pub mod positions;
    mod publisher;
    mod redis;
    mod refusals;
    mod relay;
    mod sequence;
    mod source;
    mod stream;
    mod subscriber;
    mod surroundings;
    mod waiting;
}
mod pooler;
pub mod operations {
    pub mod backup;
    mod diagnosis;
    mod publication;
    mod purging;
    mod replication;
    mod retention;
    mod runs;
    mod standby;
    pub mod versions;
}
mod server {
    mod cli;
    pub mod http;
    mod reaping;
    mod replay;
    mod web_ui;
}
