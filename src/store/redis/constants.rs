//! The figures that scripts share with each other, with the code and with `docs/redis.md`: declared here, and
//! put before each script that names them.

use super::wire::MEASURED;
use crate::model::STRIDE;
use std::time::Duration;

/// How long seats are kept for those who held them before Redis came back empty or old.
pub const GHOSTS_TTL: Duration = Duration::from_secs(5);

/// How long new seats wait, after Redis came back empty or old, for proxies that have not written down yet what
/// they held. Less than clients wait for a seat by default.
pub const AWAITED_TTL: Duration = Duration::from_secs(3);

/// After a time in which Redis heard no proxy (it was away, or there was none), the silent are judged only
/// when all had this long to come back; less where `store.proxy_ttl` is less.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long the lifetime of a worker that fell silent is kept for its return.
pub const SILENT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How many of the workers that are gone are remembered, the last ones, for proxies that missed it.
pub const GONE_REMEMBERED: u64 = 10_000;

/// How long turns are remembered that nobody waits for.
const TURNS_TTL: Duration = Duration::from_secs(10 * 60);

/// Seats that are given in one call: a millisecond or two of everybody's time.
const MAX_GRANTS: u64 = 64;

/// What scripts call them, each with its value as Lua has it; times in ms.
pub fn lua_constants() -> Vec<(&'static str, String)> {
    let ms = |time: Duration| time.as_millis().to_string();
    let measured = MEASURED.map(|field| format!("{field}=true"));
    vec![
        ("GHOSTS_TTL", ms(GHOSTS_TTL)),
        ("AWAITED_TTL", ms(AWAITED_TTL)),
        ("GRACE", ms(GRACE)),
        ("SILENT_TTL", ms(SILENT_TTL)),
        ("GONE_REMEMBERED", GONE_REMEMBERED.to_string()),
        ("TURNS_TTL", ms(TURNS_TTL)),
        ("MAX_GRANTS", MAX_GRANTS.to_string()),
        ("STRIDE", STRIDE.to_string()),
        ("MEASURED", format!("{{{}}}", measured.join(","))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_these_figures() {
        let document = include_str!("../../../docs/redis.md");
        let seconds = |time: Duration| time.as_secs();
        for words in [
            format!("ghosts for {} s", seconds(GHOSTS_TTL)),
            format!("string with a TTL of {} s", seconds(GHOSTS_TTL)),
            format!("or {} s are over", seconds(AWAITED_TTL)),
            format!("judged for the next {} s", seconds(GRACE)),
            format!(
                "the last {},{:03} workers",
                GONE_REMEMBERED / 1000,
                GONE_REMEMBERED % 1000
            ),
            format!("hash, {} min after the last seat", seconds(TURNS_TTL) / 60),
        ] {
            assert!(
                document.contains(&words),
                "docs/redis.md does not say {words:?}"
            );
        }
        assert_eq!(seconds(SILENT_TTL), 86400, "docs/redis.md says a day");
    }
}
