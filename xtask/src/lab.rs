//! The served binary holds no laboratory scheme and no test switch, checked on `cargo tree`.

use anyhow::{Result, bail};

/// The package whose binary is served.
const SERVED: &str = "quorate-server";

/// Features that no served binary may have.
const FORBIDDEN: [&str; 3] = ["lab-mife-ref", "testkit", "mutants"];

/// The arguments with which cargo prints, a line per package, its name and resolved features.
/// (`--edges features` would hide what a feature of the root package itself switches on.)
pub(crate) const TREE: [&str; 11] = [
    "tree",
    "--locked",
    "--offline",
    "--package",
    SERVED,
    "--edges",
    "normal,build",
    "--prefix",
    "none",
    "--format",
    "{p}|{f}",
];

/// Every forbidden feature in the output of cargo with [`TREE`].
///
/// # Errors
/// When the text is no such tree: a check that finds nothing to check must not pass.
pub(crate) fn check(tree: &str) -> Result<Vec<String>> {
    if !tree.starts_with(&format!("{SERVED} v")) {
        bail!("not a tree of {SERVED}");
    }
    let mut findings = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let Some((package, features)) = line.split_once('|') else {
            bail!("a line without features: {line}");
        };
        // A package seen before carries the mark " (*)" after its features.
        let features = features.strip_suffix(" (*)").unwrap_or(features);
        let name = package.split(' ').next().unwrap_or(package);
        for feature in features.split(',').filter(|feature| FORBIDDEN.contains(feature)) {
            findings.push(format!("{SERVED} would be built with {name}/{feature}"));
        }
    }
    findings.sort_unstable();
    findings.dedup();
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "quorate-server v0.1.0 (/quorate/server)|default\n\
        quorate-client v0.1.0 (/quorate/client-sdk)|\n\
        serde v1.0.0|default,derive,std (*)\n";

    #[test]
    fn a_plain_build_passes() {
        assert_eq!(check(SOUND).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_forbidden_feature_is_found_once() {
        for name in FORBIDDEN {
            for features in [name.to_owned(), format!("default,{name}"), format!("{name},std")] {
                let line = format!("quorate-crypto v0.1.0 (/quorate/crypto)|{features}");
                let tree = format!("{SOUND}{line}\n{line} (*)\n");
                assert_eq!(
                    check(&tree).unwrap(),
                    [format!("quorate-server would be built with quorate-crypto/{name}")]
                );
            }
        }
    }

    #[test]
    fn a_tree_of_something_else_is_an_error() {
        assert!(check("").is_err());
        assert!(check("quorate-crypto v0.1.0|\n").is_err());
        assert!(check("quorate-server v0.1.0\n").is_err());
    }
}
