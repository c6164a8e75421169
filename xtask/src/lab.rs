//! The served binary holds no laboratory scheme and no test switch, checked on `cargo tree`.

use anyhow::{Result, bail};

/// The package whose binary is served.
pub(crate) const SERVED: &str = "quorate-server";

/// Features that no served binary may have.
const FORBIDDEN: [&str; 3] = ["lab-mife-ref", "testkit", "mutants"];

/// Every forbidden feature in the output of
/// `cargo tree --package quorate-server --edges normal,build,features --prefix none`.
///
/// # Errors
/// When the text is no feature tree of the served package: a check that finds nothing to check must
/// not pass.
pub(crate) fn check(tree: &str) -> Result<Vec<String>> {
    let root = format!("{SERVED} v");
    if !tree.lines().next().is_some_and(|first| first.starts_with(&root)) {
        bail!("not a tree of {SERVED}");
    }
    if !tree.contains(" feature \"") {
        bail!("the tree shows no features");
    }
    let mut findings: Vec<String> = tree
        .lines()
        .filter_map(feature)
        .filter(|(_, feature)| FORBIDDEN.contains(feature))
        .map(|(package, feature)| format!("{SERVED} would be built with {package}/{feature}"))
        .collect();
    findings.sort_unstable();
    findings.dedup();
    Ok(findings)
}

/// Package and feature of a line such as `quorate-crypto feature "default"`.
fn feature(line: &str) -> Option<(&str, &str)> {
    let (package, rest) = line.split_once(" feature \"")?;
    Some((package, rest.split_once('"')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "quorate-server v0.1.0 (/quorate/server)\n\
        quorate-client feature \"default\"\n\
        quorate-client v0.1.0 (/quorate/client-sdk)\n\
        serde feature \"derive\" (*)\n";

    #[test]
    fn a_plain_build_passes() {
        assert_eq!(check(SOUND).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_forbidden_feature_is_found_once() {
        for name in FORBIDDEN {
            let line = format!("quorate-crypto feature \"{name}\"");
            let tree = format!("{SOUND}{line}\n{line} (*)\n");
            assert_eq!(
                check(&tree).unwrap(),
                [format!("quorate-server would be built with quorate-crypto/{name}")]
            );
        }
    }

    #[test]
    fn a_tree_of_something_else_is_an_error() {
        assert!(check("").is_err());
        assert!(check("quorate-crypto v0.1.0\nserde feature \"derive\"\n").is_err());
        assert!(check("quorate-server v0.1.0\nserde v1.0.0\n").is_err());
    }
}
