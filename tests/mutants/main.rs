//! Every named check is switched off in turn, and the attack that it stops must then be noticed: a
//! check whose loss no suite sees is not tested. One test only, because the switch is the
//! process's.

use std::panic::catch_unwind;

use quorate_protocols::checks::{Check, disable};
use quorate_protocols::sim::{scenario, sweep};

#[test]
fn no_check_can_be_removed_unnoticed() {
    disable(None);
    assert_eq!(sweep(0..20, 2).failures.len(), 0, "the simulation fails with all checks on");
    let mut survivors = Vec::new();
    for check in Check::ALL {
        let (_, attack) = scenario::SCENARIOS
            .iter()
            .find(|(stopped, _)| *stopped == check)
            .expect("an attack per check");
        disable(None);
        assert_eq!(attack(), Ok(()), "{check:?}: the attack succeeds with all checks on");
        disable(Some(check));
        match catch_unwind(attack) {
            Ok(Err(seen)) => println!("{check:?} killed: {seen}"),
            Ok(Ok(())) => survivors.push(check),
            Err(_) => panic!("{check:?}: the attack's script broke instead of noticing"),
        }
        disable(None);
        assert_eq!(attack(), Ok(()), "{check:?}: the check did not come back");
    }
    assert!(survivors.is_empty(), "nothing notices the loss of {survivors:?}");
}
