//! The (role, state, fault) pairs that a sweep must meet.

pub use super::audit::Pair;
use super::drivers::CRASHES;
use super::liar::{AuthorityLie, HolderLie, PartyLie, TO_AUTHORITY, TO_HOLDER, TO_PARTY};
use super::world::threshold_scheme;

/// States of the aggregator in which something can happen to it.
const AGGREGATOR: [&str; 8] = [
    "Registering",
    "Gathering",
    "Collecting",
    "Promising",
    "Releasing",
    "Opening",
    "Tombstoning",
    "Finished",
];
/// States of an authority's job.
const AUTHORITY: [&str; 5] = ["Approved", "Promised", "Releasing", "Released", "Tombstoned"];
/// States of a party's job.
const PARTY: [&str; 5] = ["Idle", "Training", "Sealing", "Sent", "Acked"];
/// What the network does.
const NETWORK: [&str; 3] = ["loss", "repetition", "delay"];

/// All pairs a sweep must meet.
#[must_use]
pub fn listed() -> Vec<Pair> {
    let mut pairs = Vec::new();
    let roles =
        [("aggregator", &AGGREGATOR[..]), ("authority", &AUTHORITY[..]), ("party", &PARTY[..])];
    for (role, states) in roles {
        for state in states {
            pairs.extend(NETWORK.iter().chain(&CRASHES).map(|fault| (role, *state, *fault)));
        }
    }
    for fault in NETWORK {
        pairs.push(("authority", "Unregistered", fault));
        pairs.push(("party", "Joining", fault));
    }
    for state in AUTHORITY {
        pairs.extend(TO_AUTHORITY.map(|lie| ("authority", state, lie)));
    }
    for state in PARTY {
        for lie in TO_PARTY {
            // These contradict something that this state has not seen yet.
            let vacuous = match lie {
                "result of a second label" => state == "Idle",
                "receipt not honoured" => state == "Idle",
                _ => false,
            };
            if !vacuous {
                pairs.push(("party", state, lie));
            }
        }
    }
    for lie in PartyLie::ALL {
        if !matches!(lie, PartyLie::GarbagePad | PartyLie::HugeValue)
            && (lie.fits(false) || threshold_scheme().is_some())
        {
            pairs.push(("aggregator", "Collecting", lie.text()));
        }
    }
    for state in ["Promising", "Releasing", "Opening"] {
        pairs.push(("aggregator", state, PartyLie::Second.text()));
    }
    pairs.push(("aggregator", "Opening", "garbage sum"));
    for lie in AuthorityLie::ALL {
        pairs.push(("aggregator", lie.meets(), lie.text()));
    }
    if threshold_scheme().is_some() {
        pairs.extend(threshold_pairs());
    }
    pairs
}

/// States of a participant of the threshold key.
const HOLDER: [&str; 6] = ["Posting", "Posted", "Keyed", "Sharing", "Answered", "Taken"];

/// Pairs that only threshold jobs meet.
fn threshold_pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    let roles = [
        ("aggregator", &["Keying"][..]),
        ("authority", &["Keying", "Keyed"][..]),
        ("holder", &HOLDER[..]),
    ];
    for (role, states) in roles {
        for state in states {
            pairs.extend(NETWORK.iter().chain(&CRASHES).map(|fault| (role, *state, *fault)));
        }
    }
    pairs.extend(["Keyed", "Sharing", "Answered", "Taken"].map(|s| ("holder", s, "gone for good")));
    for lie in TO_HOLDER {
        match lie {
            "posts to another call" | "other posts than before" => {
                pairs.extend(["Posting", "Posted"].map(|state| ("holder", state, lie)));
            }
            _ => {
                for state in ["Keyed", "Sharing", "Answered", "Taken"] {
                    let vacuous = match lie {
                        "ask for a second set" => state == "Keyed",
                        "ask without promises" => state != "Keyed",
                        _ => false,
                    };
                    if !vacuous {
                        pairs.push(("holder", state, lie));
                    }
                }
            }
        }
    }
    for lie in HolderLie::ALL {
        pairs.extend(lie.found().map(|(state, _)| ("aggregator", state, lie.text())));
    }
    pairs
}
