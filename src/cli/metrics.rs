//! `--metrics-port`: what this process counts, over HTTP.
//!
//! `/metrics` is for Prometheus, `/healthz` for whoever wants to know whether the run goes on. A thread of its own answers, so a
//! slow reader holds nothing up; it ends with the process.

use crate::error::{Error, Result};
use crate::runtime::Running;
use crate::runtime::fate::Fate;
use crate::runtime::metrics::Metrics;
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

/// Where what is counted can be read.
#[derive(Debug, Clone, Args)]
pub struct MetricsArguments {
    /// Serve /metrics, for Prometheus, and /healthz at this port; 0 takes a free one. Of several processes on this
    /// machine number I, from 0, takes port N + I
    #[arg(long, value_name = "N")]
    metrics_port: Option<u16>,
    /// Where to serve them; everyone who can connect can read them
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", requires = "metrics_port")]
    metrics_address: IpAddr,
}

/// A port that is taken but not served yet.
pub struct Door(TcpListener);

impl MetricsArguments {
    /// Takes the port for process `number` of those on this machine, if metrics are asked for.
    ///
    /// # Errors
    /// `Unavailable` if someone else has it.
    pub fn open(&self, number: usize) -> Result<Option<Door>> {
        let Some(first) = self.metrics_port else { return Ok(None) };
        let port = match first {
            0 => Some(0),
            first => u16::try_from(number).ok().and_then(|number| first.checked_add(number)),
        };
        let port = port.ok_or_else(|| {
            Error::invalid(format!("process {number} has no port: {first} + {number} is above 65535"))
                .help("choose a smaller --metrics-port")
        })?;
        let address = SocketAddr::new(self.metrics_address, port);
        let taken = |error: std::io::Error| {
            Error::unavailable(format!("metrics cannot be served at {address}: {error}"))
                .help("choose another --metrics-port, or 0 for any that is free")
                .caused_by(error)
        };
        Ok(Some(Door(TcpListener::bind(address).map_err(taken)?)))
    }
}

impl Door {
    /// Serves what `running` counts from now on.
    pub fn serve(self, running: &Running) -> Result<()> {
        let (metrics, fate) = (running.metrics(), running.fate());
        let failed = |error: std::io::Error| Error::unavailable(format!("metrics cannot be served: {error}"));
        let address = self.0.local_addr().map_err(failed)?;
        self.0.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let router = Router::new()
            .route("/metrics", get(move || std::future::ready(exposition(&metrics))))
            .route("/healthz", get(move || std::future::ready(health(&fate))));
        let serve = move || {
            runtime.block_on(async {
                let served = async { axum::serve(tokio::net::TcpListener::from_std(self.0)?, router).await };
                if let Err(error) = served.await {
                    tracing::warn!("metrics are not served any more: {error}");
                }
            });
        };
        std::thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failed)?;
        tracing::info!("metrics at http://{address}/metrics");
        Ok(())
    }
}

fn exposition(metrics: &Arc<Metrics>) -> Response {
    match metrics.exposition() {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn health(fate: &Fate) -> Response {
    match fate.error() {
        Some(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("failed: {error}\n")).into_response(),
        None if fate.stopping() => "stopping\n".into_response(),
        None => "running\n".into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_port_of_its_own() {
        let at = |port| MetricsArguments { metrics_port: port, metrics_address: IpAddr::from([127, 0, 0, 1]) };
        assert!(at(None).open(0).unwrap().is_none(), "nothing is served unasked");
        let error = at(Some(65_535)).open(1).err().expect("there is no port 65536");
        assert_eq!(error.to_string(), "process 1 has no port: 65535 + 1 is above 65535");
        // someone else may have either port
        let doors = (20_000..60_000).step_by(2).find_map(|port| {
            let doors = [0, 1].map(|process| at(Some(port)).open(process).ok().flatten());
            let [Some(first), Some(second)] = doors else { return None };
            Some((port, [first, second].map(|door| door.0.local_addr().unwrap().port())))
        });
        let (port, taken) = doors.expect("two ports are free");
        assert_eq!(taken, [port, port + 1]);
    }
}
