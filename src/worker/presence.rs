//! What another process of this machine can find out about the workers here: that there are some,
//! and where their browser servers listen. A worker is found by the folder that it holds locked, a
//! server by the address it leaves in its own folder. The secret path is not there.

use super::machine;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Name of the file with the server's address, in the folder of its temporary files.
const ADDRESS: &str = "address";

/// Leaves a server's address in its folder, for [`servers_here`].
pub(super) fn announce(server_folder: &Path, address: SocketAddr) -> io::Result<()> {
    std::fs::write(server_folder.join(ADDRESS), address.to_string())
}

/// Addresses of the browser servers that this user's workers have up on this machine; `None` when
/// there is no worker, or one with another place for temporary files.
pub fn servers_here() -> Option<Vec<SocketAddr>> {
    servers_below(&std::env::temp_dir())
}

fn servers_below(root: &Path) -> Option<Vec<SocketAddr>> {
    let workers = machine::living_folders(root);
    let servers = workers
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| std::fs::read_to_string(entry.path().join(ADDRESS)).ok())
        .filter_map(|address| address.parse().ok())
        .collect();
    (!workers.is_empty()).then_some(servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::MachineShared;

    #[test]
    fn a_worker_is_seen_as_long_as_it_lives_and_a_server_once_it_is_up() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(servers_below(root.path()), None);
        let machine = MachineShared::below(root.path()).unwrap();
        let server = machine.server_folder().unwrap();
        assert_eq!(servers_below(root.path()), Some(vec![]));
        let address = "127.0.0.1:3131".parse().unwrap();
        announce(server.path(), address).unwrap();
        assert_eq!(servers_below(root.path()), Some(vec![address]));
        drop(server);
        assert_eq!(servers_below(root.path()), Some(vec![]));

        // What a killed worker leaves behind: everything but the lock.
        let dead = root.path().join("playhouse-1-dead");
        std::fs::create_dir_all(dead.join("1")).unwrap();
        std::fs::File::create(dead.join("lock")).unwrap();
        announce(&dead.join("1"), address).unwrap();
        assert_eq!(servers_below(root.path()), Some(vec![]));
        drop(machine);
        assert_eq!(servers_below(root.path()), None);
    }
}
