//! The process's limits: descriptors as far as they go, and no core file.

use crate::config::Limits;
use crate::proxy::connections::max_by_descriptors;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, and says how many sessions that allows.
pub fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) => {
            log::info!(descriptors = limit, sessions = max_by_descriptors();
                "descriptor limit, and the sessions it allows");
        }
        Err(error) => {
            log::warn!(error:% = error, sessions = max_by_descriptors();
                "the descriptor limit could not be raised");
        }
    }
}

/// Says when a configuration asks for more connections than the descriptors allow: they are not
/// taken then, whatever it says.
pub fn warn_of_connections(limits: &Limits) {
    let allowed = max_by_descriptors();
    if u64::from(limits.max_connections) > allowed {
        log::warn!(max_connections = limits.max_connections, allowed;
            "limits.max_connections is more than the descriptor limit allows, which is in force");
    }
}

/// Leaves no core file, of this process or of the browsers it starts: tokens pass through the
/// memory of the one, pages are in that of the others. Only the soft limit: whoever needs a core
/// file of a running process can raise it with prlimit(1).
pub fn leave_no_core() {
    let lowered = getrlimit(Resource::RLIMIT_CORE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, 0, hard));
    if let Err(error) = lowered {
        log::warn!(error:% = error; "core files could not be turned off");
    }
}
