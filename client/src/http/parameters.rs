//! Parameters of a request, checked strictly: a filter that is misspelt and ignored would list everything.

use std::str::FromStr;

use pg_workflow_state_machine::State;
use uuid::Uuid;

use super::answer::Refusal;
use crate::list::{OrderBy, Page, Sort};

const LIMITS: std::ops::RangeInclusive<u32> = 1..=1000;
const DEFAULT_LIMIT: u32 = 50;

/// The query string, each name once and known.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Parameters, Refusal> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned() {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::BadRequest(format!("unknown parameter \"{name}\"; known here: {known}")));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::BadRequest(format!("parameter \"{name}\" is given more than once")));
            }
            // PostgreSQL has no text with this character.
            if value.contains('\0') {
                return Err(Refusal::BadRequest(format!("parameter \"{name}\" contains a null character")));
            }
            parameters.push((name, value));
        }
        Ok(Parameters(parameters))
    }

    pub fn get<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Refusal> {
        self.text(name).map(|value| parse(name, value, expected)).transpose()
    }

    /// One state, or several separated by commas.
    pub fn states(&self) -> Result<Vec<State>, Refusal> {
        let Some(value) = self.text("state") else {
            return Ok(Vec::new());
        };
        let expected = format!("one or more of {}, separated by commas", State::ALL.map(State::as_str).join(", "));
        value.split(',').map(|state| parse("state", state, &expected)).collect()
    }

    pub fn page<S: Sort>(&self) -> Result<Page<S>, Refusal> {
        let expected = "a number from 1 to 1000";
        let limit = self.get("limit", expected)?.unwrap_or(DEFAULT_LIMIT);
        if !LIMITS.contains(&limit) {
            return Err(bad("limit", &limit.to_string(), expected));
        }
        let order_by = self.get("order_by", &format!("one of {}", OrderBy::<S>::spellings()))?;
        Ok(Page { limit, cursor: self.text("cursor").map(str::to_owned), order_by })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// The id at the end of a path.
pub fn id(text: &str) -> Result<Uuid, Refusal> {
    parse("id", text, "a UUID")
}

fn parse<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| bad(name, value, expected))
}

fn bad(name: &str, value: &str, expected: &str) -> Refusal {
    let shown: String = value.chars().take(100).collect();
    Refusal::BadRequest(format!("parameter \"{name}\" is \"{shown}\"; expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::DagSort;

    fn refusal<T>(result: Result<T, Refusal>) -> String {
        match result {
            Err(Refusal::BadRequest(message)) => message,
            _ => panic!("expected a bad request"),
        }
    }

    fn parse(query: &str) -> Result<Parameters, Refusal> {
        Parameters::parse(Some(query), &["state", "limit", "cursor", "paused"])
    }

    #[test]
    fn every_name_is_known_and_given_once() {
        assert!(refusal(parse("stat=queued")).contains("\"stat\""));
        assert!(refusal(parse("state=queued&state=running")).contains("more than once"));
        assert!(refusal(parse("state=%00")).contains("null character"));
    }

    #[test]
    fn values_are_checked() {
        for query in ["limit=0", "limit=1001", "limit=x", "limit=", "limit=99999999999"] {
            assert!(refusal(parse(query).and_then(|p| p.page::<DagSort>())).contains("\"limit\""), "{query}");
        }
        assert!(refusal(parse("state=queued,").and_then(|p| p.states())).contains("\"state\""));
        assert!(
            refusal(parse("paused=yes").and_then(|p| p.get::<bool>("paused", "true or false")))
                .contains("true or false")
        );
    }

    #[test]
    fn what_is_given_is_used() {
        let parameters = parse("state=queued,upstream_failed&limit=1000&cursor=7").ok().unwrap();
        assert_eq!(parameters.states().ok(), Some(vec![State::Queued, State::UpstreamFailed]));
        let page = parameters.page::<DagSort>().ok().unwrap();
        assert_eq!((page.limit, page.cursor.as_deref()), (1000, Some("7")));
    }
}
