//! The way to Redis: what a URL says, and which server it stands for at a moment. With Sentinel that is
//! asked anew for every connection.

use super::connection::{self, Connection};
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisConnectionInfo, RedisError, RedisResult, TlsMode,
};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;
use url::Url;

/// How long it may take to learn from sentinels who the primary is.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
const SENTINEL_PORT: u16 = 26379;

/// Where Redis is.
pub enum Location {
    /// One address, whoever answers there.
    Direct(Client),
    Sentinels {
        sentinels: Vec<ConnectionInfo>,
        /// What the sentinels call the primary.
        service: String,
        node: SentinelNodeConnectionInfo,
        settings: RedisConnectionInfo,
    },
}

impl Location {
    /// Reads `redis://`, `rediss://`, `redis+unix://`, or
    /// `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/SERVICE[/DATABASE]`, with `rediss+sentinel://`
    /// for TLS to sentinels and servers. User and password are those of the servers; those of the
    /// sentinels are `?sentinel_username=` and `?sentinel_password=`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(url: &str) -> RedisResult<Location> {
        match url.split_once("+sentinel://") {
            Some((scheme, rest)) if ["redis", "rediss"].contains(&scheme) => {
                sentinels(scheme, rest)
            }
            _ => Client::open(prepared(url.into_connection_info()?)).map(Location::Direct),
        }
    }

    /// The number of the database.
    pub fn database(&self) -> i64 {
        match self {
            Location::Direct(client) => client.get_connection_info().redis_settings().db(),
            Location::Sentinels { settings, .. } => settings.db(),
        }
    }

    /// Where that is, without user and password.
    pub fn address(&self) -> String {
        match self {
            Location::Direct(client) => client.get_connection_info().addr().to_string(),
            Location::Sentinels {
                sentinels, service, ..
            } => {
                let sentinels = sentinels.iter().map(|info| info.addr().to_string());
                format!("{service} at {}", sentinels.collect::<Vec<_>>().join(","))
            }
        }
    }

    /// What finds the server for each connection.
    ///
    /// # Errors
    /// When the sentinels' addresses are unusable.
    pub fn finder(&self) -> RedisResult<Finder<'_>> {
        let sentinel = match self {
            Location::Direct(_) => None,
            Location::Sentinels { sentinels, .. } => Some(Sentinel::build(sentinels.clone())?),
        };
        Ok(Finder {
            location: self,
            sentinel,
        })
    }

    /// The address of this machine that packets to Redis leave from; none for a Unix socket.
    pub async fn own_address(&self) -> Option<IpAddr> {
        let info = match self {
            Location::Direct(client) => client.get_connection_info(),
            Location::Sentinels { sentinels, .. } => sentinels.first()?,
        };
        let (host, port) = match info.addr() {
            redis::ConnectionAddr::Tcp(host, port)
            | redis::ConnectionAddr::TcpTls { host, port, .. } => (host.as_str(), *port),
            _ => return None,
        };
        let addresses = tokio::net::lookup_host((host, port)).await.ok()?;
        addresses.into_iter().find_map(|address| {
            // Connecting a UDP socket sends nothing; it only looks the route up.
            let any: IpAddr = match address {
                std::net::SocketAddr::V4(_) => [0, 0, 0, 0].into(),
                std::net::SocketAddr::V6(_) => [0u16; 8].into(),
            };
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect(address).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })
    }
}

/// Finds the server of a [`Location`].
pub struct Finder<'a> {
    location: &'a Location,
    sentinel: Option<Sentinel>,
}

impl Finder<'_> {
    /// A connection to the server of this moment. What it pushes goes to `hear`, which must not block.
    ///
    /// # Errors
    /// When there is none that can be reached.
    pub async fn connect(
        &mut self,
        hear: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
    ) -> RedisResult<Connection> {
        connection::open(&self.client().await?, hear).await
    }

    async fn client(&mut self) -> RedisResult<Client> {
        match (self.location, &mut self.sentinel) {
            (Location::Direct(client), _) => Ok(client.clone()),
            (Location::Sentinels { service, node, .. }, Some(sentinel)) => {
                let lookup = sentinel.async_master_for(service, Some(node));
                tokio::time::timeout(LOOKUP_TIMEOUT, lookup)
                    .await
                    .unwrap_or_else(|_| {
                        let text = "the sentinels did not say in time who the primary is";
                        Err(RedisError::from((ErrorKind::Io, text)))
                    })
            }
            (Location::Sentinels { .. }, None) => Err(unusable("no sentinels")),
        }
    }
}

fn unusable(text: &'static str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, text))
}

/// Packets leave at once, and calls and messages share one connection.
fn prepared(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone();
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    // The client's name is of no use here, and its user of Redis need not have the right to tell it.
    let settings = settings.set_skip_set_lib_name();
    info.set_tcp_settings(tcp)
        .set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3))
}

fn sentinels(scheme: &str, rest: &str) -> RedisResult<Location> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), authority),
    };
    let parsed = Url::parse(&format!("{scheme}://sentinel{path}"))
        .map_err(|_| unusable("not a URL of sentinels"))?;
    let mut segments = parsed.path_segments().into_iter().flatten();
    let service = segments.next().unwrap_or_default().to_owned();
    let database = segments.next().unwrap_or("0");
    if service.is_empty() || segments.next().is_some() {
        return Err(unusable("the sentinels' name of the primary is missing"));
    }
    let of_servers = format!("{scheme}://{credentials}server/{database}").into_connection_info()?;
    let of_sentinels = |name: &str| {
        let mut pairs = parsed.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    let mut sentinels = Vec::new();
    for host in hosts.split(',') {
        let has_port = host.rsplit_once(':').is_some_and(|(before, _)| {
            !before.ends_with(':') && !before.contains('[') || before.ends_with(']')
        });
        let address = match has_port {
            true => format!("{scheme}://{host}"),
            false => format!("{scheme}://{host}:{SENTINEL_PORT}"),
        };
        let info = address.into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(user) = of_sentinels("sentinel_username") {
            settings = settings.set_username(user);
        }
        if let Some(password) = of_sentinels("sentinel_password") {
            settings = settings.set_password(password);
        }
        sentinels.push(info.set_redis_settings(settings));
    }
    let settings = prepared(of_servers);
    let mut node = SentinelNodeConnectionInfo::default()
        .set_redis_connection_info(settings.redis_settings().clone())
        .set_tcp_settings(settings.tcp_settings().clone());
    if scheme == "rediss" {
        node = node.set_tls_mode(TlsMode::Secure);
    }
    Ok(Location::Sentinels {
        sentinels,
        service,
        node,
        settings: settings.redis_settings().clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_have_a_service_and_hosts() {
        let location = Location::parse("redis+sentinel://u:p%40ss@a,b:1,[::1]:2/grid/3").unwrap();
        assert_eq!(location.database(), 3);
        assert_eq!(location.address(), "grid at a:26379,b:1,::1:2");
        let Location::Sentinels { settings, .. } = location else {
            panic!("no sentinels");
        };
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("u"), Some("p@ss"))
        );
        for url in [
            "redis+sentinel://a:1",
            "redis+sentinel://a:1/",
            "redis+sentinel:///grid",
            "redis+sentinel://a:1/grid/x",
            "redis+sentinel://a:1/grid/1/2",
            "http+sentinel://a:1/grid",
            "redis+sentinel://a:port/grid",
        ] {
            assert!(Location::parse(url).is_err(), "{url}");
        }
    }
}
