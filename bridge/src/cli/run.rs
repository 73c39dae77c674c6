//! `clbridge run`: the daemon, until SIGTERM or SIGINT.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::config::Config;
use crate::membership::Membership;
use crate::run::Bridge;
use crate::{assembly, heap, http};

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// How long requests that are being answered are waited for.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(_: &Args, config: Arc<Config>) -> anyhow::Result<ExitCode> {
    super::start_log(&config)?;
    // Before anything is fenced: whoever cannot show its status must not take an MDT from one who can.
    let listen = config.http.listen;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("configuration key `http.listen`: {listen}"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let sink = super::broker::connect(&config).await?;
    let setup = {
        let (config, sink) = (config.clone(), sink.clone());
        tokio::task::spawn_blocking(move || assembly::setup(&config, &sink)).await??
    };
    let membership = Membership::start(&config, sink.clone(), sink);
    let bridge = Arc::new(Bridge::start_after(setup, membership.registered()));
    let heap = tokio::spawn(heap::keep_small());
    info!(instance = config.instance, %listen, "started");

    let source: http::StatusSource = {
        let bridge = bridge.clone();
        Arc::new(move || bridge.status())
    };
    let (stop_http, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, http::router(source)).with_graceful_shutdown(async {
        // Dropped or sent, both mean stop.
        let _ = stopped.await;
    });
    let mut server = tokio::spawn(server.into_future());

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
        ended = &mut server => warn!("the HTTP server has ended: {ended:?}; stopping"),
    }
    heap.abort();
    membership.stop().await;
    drop(stop_http);
    if !server.is_finished() && tokio::time::timeout(HTTP_PATIENCE, &mut server).await.is_err() {
        server.abort();
        // Aborted, so it ends; what it held of the bridge is free only then.
        let _ = server.await;
    }
    alone(bridge).await?.shutdown().await;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The bridge without anybody who shares it: a connection lets go of it a moment after the server that had it has ended.
async fn alone(mut bridge: Arc<Bridge>) -> anyhow::Result<Bridge> {
    let until = Instant::now() + HTTP_PATIENCE;
    loop {
        bridge = match Arc::try_unwrap(bridge) {
            Ok(bridge) => return Ok(bridge),
            Err(shared) => shared,
        };
        ensure!(Instant::now() < until, "a request still holds the bridge after {} s", HTTP_PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
