//! What people write: job files, JSON bodies and tables; the first byte picks the reader.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_client::api::{self, JobSpec, PartyView};
use quorate_client::learn::data::{Dataset, Hints, Table, infer_schema};
use quorate_protocols::wire::decode;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            if let Ok(text) = core::str::from_utf8(rest) {
                let _ = toml::from_str::<JobSpec>(text);
            }
        }
        1 => drop(api::from_json::<JobSpec>(rest)),
        2 => drop(decode::<PartyView>(rest)),
        _ => {
            let Ok(table) = Table::parse(rest) else {
                return;
            };
            let Some(target) = table.header().last().cloned() else {
                return;
            };
            let _ = table.folds();
            if let Ok(schema) = infer_schema(&table, &target, &Hints::default()) {
                let rows: Vec<usize> = (0..table.rows()).collect();
                let _ = Dataset::new(&table, &schema, &rows);
            }
        }
    }
});
