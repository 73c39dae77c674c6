//! HTTP, on loopback unless told otherwise: health, readiness, status, metrics, schemas and a page for people.
//!
//! It only reads: nothing here changes what the bridge does, since there is no authentication.

mod page;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use clbridge_schemas::avro::schema_json;

use crate::metrics;
use crate::schema_list::{self, SchemaEntry};
use crate::status::{BridgeStatus, Phase};

/// Where the status comes from at each request.
pub type StatusSource = Arc<dyn Fn() -> BridgeStatus + Send + Sync>;

/// All routes.
pub fn router(status: StatusSource) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status_json))
        .route("/metrics", get(metrics_text))
        .route("/schemas", get(schemas))
        .route("/schemas/{fingerprint}", get(schema))
        .with_state(status)
}

/// The process answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Why this bridge is not ready, a line a reason; empty if it is. Waiting behind another bridge's fence is ready: it is
/// what a standby does.
fn not_ready(status: &BridgeStatus) -> Vec<String> {
    if status.mdts.is_empty() {
        return vec!["no MDT was found".to_owned()];
    }
    let reason = |mdt: &crate::status::MdtStatus| match &mdt.phase {
        Phase::Running | Phase::Fenced { .. } => None,
        Phase::Starting { step } => Some(format!("{}: starting: {step}", mdt.mdt)),
        Phase::Retrying { error } => Some(format!("{}: retrying: {error}", mdt.mdt)),
        Phase::Stopped { error, command } => Some(format!("{}: stopped: {error}; ends with: {command}", mdt.mdt)),
    };
    status.mdts.iter().filter_map(reason).collect()
}

async fn readyz(State(status): State<StatusSource>) -> Response {
    let reasons = not_ready(&status());
    if reasons.is_empty() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
    }
}

async fn status_json(State(status): State<StatusSource>) -> Json<BridgeStatus> {
    Json(status())
}

async fn status_page(State(status): State<StatusSource>) -> Html<String> {
    Html(page::render(&status()))
}

async fn metrics_text(State(status): State<StatusSource>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&status())).into_response()
}

async fn schemas() -> Json<Vec<SchemaEntry>> {
    Json(schema_list::all())
}

async fn schema(Path(which): Path<String>) -> Response {
    match schema_list::find(&which) {
        Some(version) => ([(header::CONTENT_TYPE, "application/json")], schema_json(version)).into_response(),
        None => {
            let text = format!("no schema has the version or fingerprint {which}; /schemas lists them\n");
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
