//! How states and moments are spelled in JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use pg_workflow_state_machine::State;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub fn moment<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

pub fn moment_or_null<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => moment(at, serializer),
        None => serializer.serialize_none(),
    }
}

pub fn state<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

pub fn state_or_null<S: Serializer>(state: &Option<State>, serializer: S) -> Result<S::Ok, S::Error> {
    match state {
        Some(state) => serializer.serialize_str(state.as_str()),
        None => serializer.serialize_none(),
    }
}

pub fn parse_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

pub fn parse_state_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<State>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
}
