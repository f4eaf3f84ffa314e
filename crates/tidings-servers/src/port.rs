use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use crate::{Error, Result};

/// Below are ports that well-known services have.
const LOWEST: u16 = 10_000;

/// The number of ports that are tried; of some 20,000, all but a few are free.
const TRIES: u32 = 100;

/// A port on 127.0.0.1 that nothing listens on.
///
/// The port is none that the system gives to outgoing connections: a client that tries to reach a dead server
/// on such a port sooner or later connects to itself, and the server cannot come back.
pub(crate) fn free() -> Result<u16> {
    let above = lowest_outgoing().max(LOWEST + 1);
    (0..TRIES)
        .map(|_| LOWEST + u16::try_from(random() % u64::from(above - LOWEST)).unwrap_or_default())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Error::new(format!("no free port from {LOWEST} to {above} in {TRIES} tries")))
}

/// Another number at every call; the standard library seeds its hashers from the system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

fn lowest_outgoing() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768)
}
