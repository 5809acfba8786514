//! `GET /`: the page, for people. It is one file, compiled in, and asks the API like anybody else.

use std::sync::LazyLock;

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH, REFERRER_POLICY,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::caching;

const PAGE: &str = include_str!("page.html");

/// Changes with the page: a browser asks each time whether it has changed, and mostly is told that it has not.
static VERSION: LazyLock<String> = LazyLock::new(|| format!("\"{}\"", hash(PAGE)));

/// Only the page's own script and style run, whatever text gets into it; it talks to its own server only, and nobody
/// shows it in a frame. Trusted types: no HTML is ever made from a string.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (hash(within("<script type=\"module\">", "</script>")), hash(within("<style>", "</style>")));
    format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'"
    )
});

/// Needs no token: there is nothing in it but the question for one.
pub async fn page(asked: HeaderMap) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (ETAG, &VERSION),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, &POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    if caching::names(asked.get_all(IF_NONE_MATCH), &VERSION) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

fn within(start: &str, end: &str) -> &'static str {
    let rest = PAGE.split_once(start).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once(end)).map(|(text, _)| text).expect("the page has one of each")
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}
