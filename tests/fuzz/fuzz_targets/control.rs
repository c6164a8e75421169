//! The remaining signed bodies and packages; the first byte picks the type.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_protocols::enrol::{Enroll, EnrollRequest, Enrolled};
use quorate_protocols::job::JobPackage;
use quorate_protocols::round::aggregator::AggregatorJob;
use quorate_protocols::round::authority::AuthorityJob;
use quorate_protocols::round::messages::{
    Freeze, FuncKey, Join, KeyCall, KeyPosted, KeyTranscript, Partial, Promise, ResultRecord,
    RoundOpen, ShareAsk, ShareRefused, Tombstone,
};
use quorate_protocols::round::party::PartyJob;
use quorate_protocols::wire::{Body, Name, decode};

/// A body that is read is written again to bytes that read back to it.
fn same<T: Body + PartialEq + core::fmt::Debug>(bytes: &[u8]) {
    if let Ok(body) = T::from_bytes(bytes) {
        assert_eq!(T::from_bytes(&body.to_bytes()).expect("our own encoding"), body);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 20 {
        0 => {
            if let Ok(package) = decode::<JobPackage>(rest) {
                let _ = package.verify();
            }
        }
        1 => {
            if let Ok(request) = decode::<EnrollRequest>(rest) {
                let tenant = Name::new("t").expect("a name");
                let _ = request.check(&tenant, None);
            }
        }
        2 => drop(RoundOpen::from_bytes(rest)),
        3 => drop(Freeze::from_bytes(rest)),
        4 => drop(Join::from_bytes(rest)),
        5 => drop(ResultRecord::from_bytes(rest)),
        6 => drop(Enroll::from_bytes(rest)),
        7 => drop(Enrolled::from_bytes(rest)),
        8 => drop(decode::<AggregatorJob>(rest)),
        9 => drop(decode::<AuthorityJob>(rest)),
        10 => drop(decode::<PartyJob>(rest)),
        11 => same::<KeyCall>(rest),
        12 => same::<KeyPosted>(rest),
        13 => same::<Partial>(rest),
        14 => same::<ShareRefused>(rest),
        15 => same::<Promise>(rest),
        16 => same::<FuncKey>(rest),
        17 => same::<Tombstone>(rest),
        18 => drop(decode::<KeyTranscript>(rest)),
        _ => drop(decode::<ShareAsk>(rest)),
    }
});
