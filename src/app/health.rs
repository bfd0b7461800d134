//! `playhouse healthcheck`: whether the process on this machine is ready. Asks it from outside, as
//! anybody could.

use super::operate::{AdminClient, reachable};
use crate::cli::Operator;
use crate::config::Config;
use crate::worker::servers_here;
use anyhow::bail;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long what is on this machine may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the proxy is ready, or, where none listens and a worker runs, that worker. A worker is
/// ready while a browser server of it answers: also while it drains, and while the store is away,
/// when to replace it would help nobody.
pub fn check(operator: &Operator, config: &Config) -> anyhow::Result<()> {
    let admin = reachable(config.admin.listen);
    let proxy_runs = || TcpStream::connect_timeout(&admin, TIMEOUT).is_ok();
    let worker = servers_here().filter(|_| operator.admin.is_none() && !proxy_runs());
    match worker.as_deref() {
        None => AdminClient::new(operator, config)?.ready(),
        Some([]) => bail!("the worker has no browser server up yet"),
        Some(servers) if servers.iter().any(answers) => Ok(()),
        Some(_) => bail!("the worker's browser server does not answer"),
    }
}

/// Whether a browser server answers; its browser is its worker's business.
fn answers(address: &SocketAddr) -> bool {
    let request = ureq::get(format!("http://{address}/json"));
    let answer = request.config().timeout_global(Some(TIMEOUT)).build();
    answer.call().is_ok()
}
