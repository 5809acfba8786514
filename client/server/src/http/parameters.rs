//! Request parameters, checked strictly: an ignored misspelled filter would list everything. The same types describe the
//! parameters in `/openapi.json`.

use std::marker::PhantomData;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use pg_workflow_client::{LogLevel, State};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::path::Parameter;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema};
use uuid::Uuid;

use super::answers::PAGE_BYTES;
use super::error::ApiError;
use super::schema;
use pg_workflow_client::event::EntityType;
use pg_workflow_client::list::{ListOptions, OrderBy, Sort};

/// The query string: each name is known and given once, or as often as it has values, and each value has the type of its
/// field.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + IntoParams, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, ApiError> {
        let known: Vec<Known> = T::into_params(|| None).into_iter().map(Known::of).collect();
        parse(parts.uri.query().unwrap_or_default(), &known).map(Query)
    }
}

/// A parameter of an endpoint.
struct Known {
    name: String,
    /// It has several values: separated by commas, or each with the name.
    is_list: bool,
}

impl Known {
    fn of(parameter: Parameter) -> Known {
        let is_list = matches!(parameter.schema, Some(RefOr::T(Schema::Array(_))));
        Known { name: parameter.name, is_list }
    }
}

fn parse<T: DeserializeOwned>(query: &str, known: &[Known]) -> Result<T, ApiError> {
    let mut seen: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
        let Some(parameter) = known.iter().find(|known| known.name == name) else {
            let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(ApiError::parameter(&excerpt(&name), &format!("is unknown; known parameters: {names}")));
        };
        match seen.iter_mut().find(|(other, _)| *other == name) {
            None => seen.push((name, value)),
            Some((_, values)) if parameter.is_list => *values = format!("{values},{value}"),
            Some(_) => return Err(ApiError::parameter(&name, "is given more than once")),
        }
    }
    let joined = form_urlencoded::Serializer::new(String::new()).extend_pairs(&seen).finish();
    let values = serde_urlencoded::Deserializer::new(form_urlencoded::parse(joined.as_bytes()));
    serde_path_to_error::deserialize(values).map_err(|error| {
        let name = error.path().to_string();
        let value = seen.iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value);
        ApiError::parameter(&name, &format!("is \"{}\"; {}", excerpt(value), error.into_inner()))
    })
}

/// Returns the start of a text from a user, for an error message.
fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}

/// The id in a path.
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, ApiError> {
        let text = match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(text)) => text,
            Err(rejection) => return Err(ApiError::parameter("id", &rejection.body_text())),
        };
        let id = parse_uuid(&text)
            .ok_or_else(|| ApiError::parameter("id", &format!("is \"{}\"; {A_UUID}", excerpt(&text))))?;
        Ok(Id(id))
    }
}

/// A text of at most the length of names.
#[derive(Debug)]
pub struct Text(pub String);
/// An id.
#[derive(Debug)]
pub struct UuidText(pub Uuid);
/// Maximum number of rows.
#[derive(Debug)]
pub struct Limit(u32);
/// States, separated by commas.
#[derive(Debug)]
pub struct States(pub Vec<State>);
/// Levels of log lines, separated by commas.
#[derive(Debug)]
pub struct Levels(pub Vec<LogLevel>);
/// A point in time.
#[derive(Debug)]
pub struct Timestamp(pub DateTime<Utc>);
/// An order.
#[derive(Debug)]
pub struct Order<S>(pub OrderBy<S>);
/// Runs or tasks.
#[derive(Debug)]
pub struct EntityKind(pub EntityType);
/// The number of an attempt.
#[derive(Debug)]
pub struct TryNumber(pub i32);
/// The requested fields of each row, in this order.
#[derive(Debug)]
pub struct Fields<T>(pub Vec<String>, PhantomData<fn() -> T>);

const A_UUID: &str = "expected a UUID such as 01a20acc-426c-72e1-b99d-ae799985b4ee";

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Text, String> {
        match text.chars().count() {
            // PostgreSQL has no text with this character.
            _ if text.contains('\0') => Err("expected no null character".to_owned()),
            _ if text.contains('\u{fffd}') => Err("expected UTF-8".to_owned()),
            1..=schema::MAX_TEXT => Ok(Text(text.to_owned())),
            _ => Err(format!("expected 1 to {} characters", schema::MAX_TEXT)),
        }
    }
}

impl FromStr for UuidText {
    type Err = String;

    fn from_str(text: &str) -> Result<UuidText, String> {
        parse_uuid(text).map(UuidText).ok_or_else(|| A_UUID.to_owned())
    }
}

/// Parses a UUID in its usual format only.
fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit, String> {
        match parse_digits(text) {
            Some(limit) if (1..=schema::MAX_LIMIT).contains(&limit) => Ok(Limit(limit)),
            _ => Err(format!("expected a number from 1 to {}", schema::MAX_LIMIT)),
        }
    }
}

impl FromStr for TryNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<TryNumber, String> {
        let number = parse_digits(text).and_then(|number| i32::try_from(number).ok());
        number.map(TryNumber).ok_or_else(|| format!("expected a number from 0 to {}", i32::MAX))
    }
}

/// Parses a number without a sign.
fn parse_digits(text: &str) -> Option<u32> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Parses names that are separated by commas; `all` are those that exist.
fn parse_names<T: FromStr>(text: &str, all: &[&str]) -> Result<Vec<T>, String> {
    let names: Result<_, _> = text.split(',').map(T::from_str).collect();
    names.map_err(|_| format!("expected one or more of {}, separated by commas", all.join(", ")))
}

impl FromStr for States {
    type Err = String;

    fn from_str(text: &str) -> Result<States, String> {
        parse_names(text, &State::ALL.map(State::as_str)).map(States)
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Levels, String> {
        parse_names(text, &LogLevel::ALL.map(LogLevel::as_str)).map(Levels)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Timestamp, String> {
        let time = DateTime::parse_from_rfc3339(text);
        let expected = "expected a time such as 2026-11-24T08:00:00Z (RFC 3339; encode \"+\" as %2B)";
        time.map(|time| Timestamp(time.to_utc())).map_err(|_| expected.to_owned())
    }
}

impl<S: Sort> FromStr for Order<S> {
    type Err = String;

    fn from_str(text: &str) -> Result<Order<S>, String> {
        text.parse().map(Order).map_err(|_| format!("expected one of {}", OrderBy::<S>::names().join(", ")))
    }
}

impl FromStr for EntityKind {
    type Err = String;

    fn from_str(text: &str) -> Result<EntityKind, String> {
        text.parse().map(EntityKind).map_err(|_| "expected dag_run or task_instance".to_owned())
    }
}

impl<T: PartialSchema> FromStr for Fields<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Fields<T>, String> {
        let known = schema::field_names::<T>();
        let fields: Vec<String> = text.split(',').map(str::to_owned).collect();
        let is_once = |(index, field): (usize, &String)| !fields[..index].contains(field);
        if fields.iter().all(|field| known.contains(field)) && fields.iter().enumerate().all(is_once) {
            return Ok(Fields(fields, PhantomData));
        }
        Err(format!("expected one or more of {}, separated by commas, without repetition", known.join(", ")))
    }
}

macro_rules! deserialize_by_parsing {
    ($($name:ident $(<$parameter:ident: $bound:path>)?),+) => { $(
        impl<'de $(, $parameter: $bound)?> Deserialize<'de> for $name $(<$parameter>)? {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+ };
}
deserialize_by_parsing!(
    Text,
    UuidText,
    Limit,
    States,
    Levels,
    Timestamp,
    Order<S: Sort>,
    EntityKind,
    TryNumber,
    Fields<T: PartialSchema>
);

/// Combines the parameters of a list.
pub fn list_options<S>(limit: Option<Limit>, cursor: Option<String>, order_by: Option<Order<S>>) -> ListOptions<S> {
    ListOptions {
        limit: limit.map_or(schema::DEFAULT_LIMIT, |Limit(limit)| limit),
        max_bytes: Some(PAGE_BYTES),
        cursor,
        order_by: order_by.map(|order| order.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_workflow_client::list::DagSort;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct All {
        state: Option<States>,
        limit: Option<Limit>,
        name: Option<Text>,
        dag_id: Option<UuidText>,
        at: Option<Timestamp>,
        order_by: Option<Order<DagSort>>,
        fields: Option<Fields<schema::Dag>>,
        paused: Option<bool>,
    }

    fn all(query: &str) -> Result<All, (Option<String>, String)> {
        let known = ["state", "limit", "name", "dag_id", "at", "order_by", "fields", "paused"];
        let known = known.map(|name| Known { name: name.to_owned(), is_list: ["state", "fields"].contains(&name) });
        parse(query, &known).map_err(|error| (error.parameter, error.message))
    }

    #[test]
    fn invalid_values_are_rejected_by_name() {
        let long = format!("name={}", "x".repeat(schema::MAX_TEXT + 1));
        for query in [
            "stat=queued",
            "state=queued&state=",
            "limit=1&limit=1",
            "fields=id&fields=id",
            "state=",
            "state=queued,",
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=",
            "limit=-1",
            "limit=%2B5",
            "limit=99999999999999999999",
            "name=",
            "name=%00",
            "name=%ff",
            &long,
            "dag_id=7",
            "dag_id=01a20acc426c72e1b99dae799985b4ee",
            "at=yesterday",
            "at=2026-13-01T00:00:00Z",
            "order_by=color",
            "order_by=",
            "fields=color",
            "fields=",
            "fields=id,id",
            "paused=yes",
            "paused=",
        ] {
            let (parameter, message) = all(query).unwrap_err();
            let name = query.split_once('=').unwrap().0;
            assert_eq!(parameter.as_deref(), Some(name), "{query}");
            assert!(message.contains(&format!("\"{name}\"")) && message.len() < 400, "{query}: {message}");
        }
    }

    #[test]
    fn valid_values_are_used() {
        let given =
            all("state=queued,upstream_failed&limit=1000&at=2026-11-24T09:00:00%2B01:00&fields=name,id").unwrap();
        assert_eq!(given.state.unwrap().0, [State::Queued, State::UpstreamFailed]);
        assert_eq!(given.at.unwrap().0.to_rfc3339(), "2026-11-24T08:00:00+00:00");
        assert_eq!(given.fields.unwrap().0, ["name", "id"]);
        let options = list_options::<DagSort>(given.limit, None, given.order_by);
        assert_eq!((options.limit, options.order_by), (1000, None));
        assert_eq!(all("paused=true").unwrap().paused, Some(true));
        let repeated = all("state=queued&limit=1&state=running,failed&fields=id&fields=name").unwrap();
        assert_eq!(repeated.state.unwrap().0, [State::Queued, State::Running, State::Failed]);
        assert_eq!(repeated.fields.unwrap().0, ["id", "name"]);
    }
}
