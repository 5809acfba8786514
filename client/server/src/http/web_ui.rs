//! `GET /`: the web UI, one HTML file compiled in, which uses the API like any other client.

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

/// One style sheet, in the order in which its rules apply.
const STYLE: &str = concat!(
    include_str!("web_ui/style/colors.css"),
    include_str!("web_ui/style/frame.css"),
    include_str!("web_ui/style/tables.css"),
    include_str!("web_ui/style/grid.css"),
    include_str!("web_ui/style/timeline.css"),
    include_str!("web_ui/style/graph.css"),
    include_str!("web_ui/style/phone.css"),
);

/// One module: its files share their names, and only the last one runs code that uses the views.
const SCRIPT: &str = concat!(
    include_str!("web_ui/script/format.js"),
    include_str!("web_ui/script/elements.js"),
    include_str!("web_ui/script/api.js"),
    include_str!("web_ui/script/stream.js"),
    include_str!("web_ui/script/follow.js"),
    include_str!("web_ui/script/apply.js"),
    include_str!("web_ui/script/frame.js"),
    include_str!("web_ui/script/dags.js"),
    include_str!("web_ui/script/grid.js"),
    include_str!("web_ui/script/graph_layout.js"),
    include_str!("web_ui/script/graph_details.js"),
    include_str!("web_ui/script/graph.js"),
    include_str!("web_ui/script/run.js"),
    include_str!("web_ui/script/history.js"),
    include_str!("web_ui/script/queues.js"),
    include_str!("web_ui/script/main.js"),
);

static PAGE: LazyLock<String> =
    LazyLock::new(|| include_str!("web_ui/index.html").replace("/*style*/", STYLE).replace("/*script*/", SCRIPT));

/// Changes with the page. Browsers revalidate it each time and mostly get 304.
static VERSION: LazyLock<String> = LazyLock::new(|| format!("\"{}\"", hash(&PAGE)));

/// Allows only this script and this style, whatever text the page shows, connections to this server only, and no frame
/// around the page. Trusted types: HTML is never made from a string.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (hash(SCRIPT), hash(STYLE));
    format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'"
    )
});

/// Needs no token: the page contains no data, only the form for the token.
pub async fn web_ui(headers: HeaderMap) -> Response {
    let cached: [(HeaderName, &str); 4] = [
        (ETAG, &VERSION),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, &POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    if caching::contains_tag(headers.get_all(IF_NONE_MATCH), &VERSION) {
        return (StatusCode::NOT_MODIFIED, cached).into_response();
    }
    (cached, [(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE.as_str()).into_response()
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}
