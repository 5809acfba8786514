//! The time that requests take, by route and status.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper limits in seconds: from a cached answer to the time limit of a request.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 8.0];
/// The route of requests for unknown paths: their text is from clients, and has no end of values.
const UNKNOWN: &str = "unknown";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: String,
    status: u16,
}

/// Histograms of the times until the response begins.
#[derive(Clone, Debug)]
pub struct Requests(Family<Labels, Histogram, fn() -> Histogram>);

impl Requests {
    pub fn new() -> Requests {
        Requests(Family::new_with_constructor(|| Histogram::new(SECONDS)))
    }

    pub fn register(&self, all: &mut Registry) {
        let help = "Time until the response begins, of requests by route and status";
        all.register("http_request_duration_seconds", help, self.0.clone());
    }
}

/// Measures a request. One that its client cancels has no response, and is not counted.
pub async fn measure(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or(UNKNOWN, MatchedPath::as_str).to_owned();
    let began = Instant::now();
    let response = next.run(request).await;
    let labels = Labels { route, status: response.status().as_u16() };
    requests.0.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    response
}
