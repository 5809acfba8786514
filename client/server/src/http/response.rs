//! Responses with a page of a list, reduced to the requested fields.

use std::collections::HashMap;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::LINK;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use pg_workflow_client::list::Page;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::error::ApiError;
use super::parameters::Fields;
use pg_workflow_client::Error;

/// A page of a list, with these fields of each row; with all fields if there are none.
pub struct PageResponse<T> {
    page: Page<T>,
    fields: Vec<String>,
}

impl<T> PageResponse<T> {
    pub fn new<S>(page: Page<T>, fields: Option<Fields<S>>) -> PageResponse<T> {
        PageResponse { page, fields: fields.map_or(Vec::new(), |fields| fields.0) }
    }
}

/// The cursor of the next page, in the extensions of a response.
#[derive(Clone)]
struct NextCursor(String);

/// Adds the address of the next page to a response that has a page (RFC 8288).
pub async fn link_next(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    if let Some(NextCursor(cursor)) = response.extensions_mut().remove() {
        let kept =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).filter(|(name, _)| name != "cursor");
        let query =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).append_pair("cursor", &cursor).finish();
        if let Ok(link) = HeaderValue::try_from(format!("<{}?{query}>; rel=\"next\"", uri.path())) {
            response.headers_mut().insert(LINK, link);
        }
    }
    response
}

impl<T: Serialize> IntoResponse for PageResponse<T> {
    fn into_response(self) -> Response {
        let next = self.page.next_cursor.clone().map(|cursor| Extension(NextCursor(cursor)));
        (next, self.json()).into_response()
    }
}

impl<T: Serialize> PageResponse<T> {
    fn json(self) -> Response {
        if self.fields.is_empty() {
            return Json(self.page).into_response();
        }
        let picked: Result<Vec<Picked<'_>>, _> =
            self.page.items.iter().map(|row| Picked::new(row, &self.fields)).collect();
        match picked {
            Ok(items) => Json(Page { items, next_cursor: self.page.next_cursor }).into_response(),
            Err(error) => ApiError::from(Error::Json(error)).into_response(),
        }
    }
}

/// Some fields of a row. Values stay text: parsing and formatting a number could change it.
struct Picked<'a> {
    fields: &'a [String],
    values: HashMap<String, Box<RawValue>>,
}

impl<'a> Picked<'a> {
    fn new(row: &impl Serialize, fields: &'a [String]) -> Result<Picked<'a>, serde_json::Error> {
        Ok(Picked { fields, values: serde_json::from_str(&serde_json::to_string(row)?)? })
    }
}

impl Serialize for Picked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for field in self.fields {
            map.serialize_entry(field, &self.values.get(field))?;
        }
        map.end()
    }
}
