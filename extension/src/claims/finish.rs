//! `finish_claims`: ends many claims at once, with an outcome for each.

use super::end::{self, End, Ended, Word};
use super::token::Claim;
use super::{LONGEST, MOST};
use crate::ffi::jsonb::Jsonb;
use crate::{args, errors, fields, memory, rights};
use pgrx::iter::TableIterator;
use pgrx::name;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// An element of the argument.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome<'a> {
    claim: String,
    state: Finish,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<String>,
    /// In seconds.
    retry_after: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Finish {
    Success,
    Failed,
}

type Finished = TableIterator<
    'static,
    (name!(claim, String), name!(outcome, &'static str), name!(state, Option<String>), name!(version, Option<i64>)),
>;

#[pgrx::pg_extern(sql = false)]
fn finish_claims(outcomes: Option<Jsonb>, strict: Option<bool>) -> Finished {
    rights::refuse_restricted_operation();
    let strict = args::not_null("strict", strict);
    let words = words(args::not_null("outcomes", outcomes));
    let ended = end::end_all(&words);
    let rows = words.into_iter().zip(ended).map(|(Word { claim, .. }, ended)| match ended {
        Ended::Lost(now) if strict => end::raise_lost(claim, now),
        Ended::Now(state, version) | Ended::Before(state, version) => {
            (claim.to_string(), "done", Some(state.as_str().to_owned()), Some(version))
        }
        Ended::Lost(now) => {
            let (state, version) = now.unzip();
            (claim.to_string(), "lost", state, version)
        }
    });
    TableIterator::new(memory::collect(rows))
}

const HINT: &str = "Give outcomes like '[{\"claim\": \"…\", \"state\": \"success\", \"result\": {}}, \
                    {\"claim\": \"…\", \"state\": \"failed\", \"error\": \"…\", \"retry_after\": 30}]'.";

fn words(outcomes: Jsonb) -> Vec<Word> {
    let text = outcomes.to_json_text();
    let Ok(outcomes) = serde_json::from_str::<Vec<&RawValue>>(&text) else {
        errors::invalid_argument("outcomes", &json!(null), "must be an array", HINT)
    };
    if outcomes.len() > MOST as usize {
        errors::too_many("outcomes", outcomes.len(), MOST as usize);
    }
    memory::collect(outcomes.into_iter().enumerate().map(|(n, outcome)| word(n + 1, outcome.get())))
}

fn word(number: usize, outcome: &str) -> Word {
    let parsed = serde_json::from_str::<Outcome>(outcome);
    let Ok(Outcome { claim, state, result, error, retry_after }) = parsed else { invalid(number, outcome) };
    let Some(claim) = Claim::from_text(&claim) else { invalid(number, outcome) };
    if matches!(state, Finish::Success) && (error.is_some() || retry_after.is_some()) {
        invalid(number, outcome);
    }
    let mut metadata = match result.map(RawValue::get) {
        None | Some("{}") => Jsonb::empty_object(),
        Some(result) if result.starts_with('{') => args::json_object("result", Some(Jsonb::parse(result))),
        Some(_) => invalid(number, outcome),
    };
    if let Some(error) = error {
        fields::check_text("error", &error);
        metadata = metadata.with("error", &error);
    }
    let end = match state {
        Finish::Success => End::Success,
        // Any negative time is below 0. The cast ends at the limits of the type.
        Finish::Failed => End::Failure(retry_after.map(|seconds| ((seconds * 1e6).floor() as i64).min(LONGEST))),
    };
    Word { claim, end, metadata }
}

fn invalid(number: usize, outcome: &str) -> ! {
    errors::invalid(
        &format!("cannot finish claims: outcome {number} is not valid"),
        &json!({ "argument": "outcomes", "value": errors::cut(outcome), "number": number }),
        "An outcome has claim (as workflow.claim_tasks() returned it), state (success or failed), and perhaps result (an \
         object); if it is failed, perhaps error (a text) and retry_after (seconds).",
    )
}
