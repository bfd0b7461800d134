//! What a connection to Redis is: the client's own. In unit tests it leads to the simulation's server
//! instead, so that everything around it is simulated as it is.

#[cfg(test)]
pub use crate::tests::simulation::{Connection, open};
#[cfg(not(test))]
pub use redis::aio::MultiplexedConnection as Connection;

#[cfg(not(test))]
use std::time::Duration;

/// How long it may take to reach Redis and to authenticate.
#[cfg(not(test))]
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands that may be on their way at once before callers queue up.
#[cfg(not(test))]
const PIPELINE: usize = 1024;

/// Opens one. What it pushes goes to `hear`, which must not block.
///
/// # Errors
/// When nobody answers there.
#[cfg(not(test))]
pub async fn open(
    client: &redis::Client,
    hear: impl Fn(redis::PushInfo) -> Result<(), ()> + Send + Sync + 'static,
) -> redis::RedisResult<Connection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(super::link::RESPONSE_TIMEOUT))
        .set_pipeline_buffer_size(PIPELINE)
        .set_push_sender(hear);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
