//! The process's descriptor limit: raised as far as it goes, and told.

use crate::proxy::front_door::max_by_descriptors;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, and says how many sessions that allows.
pub fn raise_limit() {
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
