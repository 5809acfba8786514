//! Errors of the database, in parts.

use serde_json::Value;

/// An error as a driver receives it.
#[derive(Debug)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub detail: Value,
    pub hint: String,
}

/// Takes the error of a statement that must fail.
pub fn failure<T>(result: Result<T, postgres::Error>) -> Failure {
    let error = result.err().expect("the statement must fail");
    let error = error.as_db_error().unwrap_or_else(|| panic!("not an error of the database: {error}"));
    Failure {
        sqlstate: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: error.detail().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| text.into())),
        hint: error.hint().unwrap_or_default().to_owned(),
    }
}
