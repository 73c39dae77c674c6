#![allow(clippy::unwrap_used)]
use super::*;
use crate::status::examples;
use std::sync::Mutex;

/// A server on a free port of loopback; the status can be changed.
async fn serve() -> (String, Arc<Mutex<BridgeStatus>>) {
    let status = Arc::new(Mutex::new(examples::one_running()));
    let shared = status.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let source: StatusSource = Arc::new(move || shared.lock().unwrap().clone());
    tokio::spawn(axum::serve(listener, router(source)).into_future());
    (url, status)
}

async fn get(url: String) -> (u16, String) {
    tokio::task::spawn_blocking(move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let mut answer = ureq::Agent::new_with_config(config).get(&url).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn status_is_the_json_that_the_command_reads() {
    let (url, status) = serve().await;
    let (code, text) = get(format!("{url}/status")).await;
    assert_eq!(code, 200);
    assert_eq!(serde_json::from_str::<BridgeStatus>(&text).unwrap(), *status.lock().unwrap());
}

#[tokio::test]
async fn readyz_says_why_an_mdt_is_not_served_and_counts_a_standby_as_ready() {
    let (url, status) = serve().await;
    assert_eq!(get(format!("{url}/healthz")).await.0, 200);
    assert_eq!(get(format!("{url}/readyz")).await.0, 200);
    status.lock().unwrap().mdts[0].phase = Phase::Fenced { owner: "bridge-b".into() };
    assert_eq!(get(format!("{url}/readyz")).await.0, 200);
    status.lock().unwrap().mdts[0].phase =
        Phase::Stopped { error: "the changelog was reset".into(), command: "clbridge reset fs-MDT0000".into() };
    let (code, text) = get(format!("{url}/readyz")).await;
    assert_eq!(code, 503);
    assert!(text.contains("fs-MDT0000: stopped: the changelog was reset; ends with: clbridge reset"), "{text}");
    status.lock().unwrap().mdts.clear();
    assert_eq!(get(format!("{url}/readyz")).await.0, 503);
    assert_eq!(get(format!("{url}/healthz")).await.0, 200);
}

#[tokio::test]
async fn schemas_are_served_by_version_and_by_fingerprint() {
    let (url, _) = serve().await;
    let (_, text) = get(format!("{url}/schemas")).await;
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let fingerprint = list[4]["fingerprint"].as_str().unwrap();
    let (code, by_fingerprint) = get(format!("{url}/schemas/{fingerprint}")).await;
    assert_eq!((code, by_fingerprint), get(format!("{url}/schemas/5")).await);
    assert_eq!(get(format!("{url}/schemas/ffff")).await.0, 404);
}

#[tokio::test]
async fn the_page_and_the_metrics_show_the_mdt() {
    let (url, _) = serve().await;
    for path in ["/", "/metrics"] {
        let (code, text) = get(format!("{url}{path}")).await;
        assert!(code == 200 && text.contains("fs-MDT0000"), "{path}: {text}");
    }
}
