//! The registry: a line per protocol, ids never reused.

use crate::card::Card;
use crate::{fedv, hybrid_alpha, pv4fad, threshold};

/// A protocol this build speaks.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolInfo {
    /// Number in manifests and envelopes.
    pub id: u16,
    /// Name on the command line.
    pub name: &'static str,
    /// What it promises.
    pub card: &'static Card,
}

/// Every protocol this build speaks.
pub static PROTOCOLS: &[ProtocolInfo] = &[
    ProtocolInfo { id: hybrid_alpha::PROTOCOL_ID, name: "hybrid-alpha", card: &hybrid_alpha::CARD },
    ProtocolInfo { id: threshold::PROTOCOL_ID, name: "threshold", card: &threshold::CARD },
    ProtocolInfo { id: fedv::PROTOCOL_ID, name: "fedv", card: &fedv::CARD },
    ProtocolInfo { id: pv4fad::PROTOCOL_ID, name: "pv4fad", card: &pv4fad::CARD },
];
