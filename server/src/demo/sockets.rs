//! Whom the processes of a demo are in touch with, as the system's tables of sockets show.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::fleet::Fleet;
use super::supervisor::Service;

/// State of a socket that waits for others, in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Sockets of the banks' processes, over all looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Contacts {
    /// Looks at a bank that could be taken; 0 where the system has no such tables.
    pub looks: u64,
    /// Connections to services.
    pub to_services: u64,
    /// Connections to anybody else.
    pub elsewhere: u64,
    /// Sockets on which a bank waits for others.
    pub listening: u64,
}

impl Contacts {
    /// Looks at every running bank once.
    pub fn look(&mut self, fleet: &Fleet) {
        let services = fleet.authorities.iter().chain([&fleet.aggregator]);
        let ports: BTreeSet<u16> =
            services.filter_map(Service::address_known).map(|address| address.port()).collect();
        let mut tables = String::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            tables.push_str(&std::fs::read_to_string(table).unwrap_or_default());
        }
        let sockets = parse(&tables);
        for pid in fleet.banks.iter().filter_map(Service::pid) {
            if let Some(own) = inodes(pid) {
                self.looks += 1;
                self.count(&sockets, &own, &ports);
            }
        }
    }

    fn count(
        &mut self,
        sockets: &BTreeMap<u64, (u16, bool)>,
        own: &[u64],
        services: &BTreeSet<u16>,
    ) {
        for (port, listens) in own.iter().filter_map(|inode| sockets.get(inode)) {
            if *listens {
                self.listening += 1;
            } else if services.contains(port) {
                self.to_services += 1;
            } else {
                self.elsewhere += 1;
            }
        }
    }
}

/// By inode, the remote port and whether the socket listens.
fn parse(table: &str) -> BTreeMap<u64, (u16, bool)> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(2)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        Some((inode, (port, *fields.get(3)? == LISTENS)))
    };
    table.lines().filter_map(socket).collect()
}

/// The sockets that a process holds.
fn inodes(pid: u32) -> Option<Vec<u64>> {
    let inode = |entry: std::io::Result<std::fs::DirEntry>| {
        let target = std::fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(inode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1BBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1
   1: 0100007F:D431 0100007F:1BBC 01 00000000:00000000 00:00000000 00000000     0        0 102 1
   2: 0100007F:D431 0100007F:1BBD 01 00000000:00000000 00:00000000 00000000     0        0 103 1
";

    #[test]
    fn sockets_are_told_apart() {
        let sockets = parse(TABLE);
        assert_eq!(sockets[&102], (0x1bbc, false));
        let mut contacts = Contacts::default();
        contacts.count(&sockets, &[101, 102, 103, 999], &BTreeSet::from([0x1bbc]));
        let seen = (contacts.to_services, contacts.elsewhere, contacts.listening);
        assert_eq!(seen, (1, 1, 1));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_listens_is_seen_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut contacts = Contacts::default();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let own = inodes(std::process::id()).unwrap();
        contacts.count(&parse(&table), &own, &BTreeSet::from([port]));
        assert!(contacts.listening >= 1, "{contacts:?}");
    }
}
