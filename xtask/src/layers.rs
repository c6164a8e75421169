//! The direction `crypto <- protocols <- client-sdk <- server`, checked on `cargo metadata`.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The crates in order: each may use those before it, no other may be used by them.
const LAYERS: [&str; 4] =
    ["quorate-crypto", "quorate-protocols", "quorate-client", "quorate-server"];

/// The crates that know no clock, network, disk or executor.
const PURE: [&str; 2] = ["quorate-crypto", "quorate-protocols"];

/// Crates whose presence would make a pure crate impure.
const IMPURE: [&str; 5] = ["tokio", "axum", "reqwest", "sqlx", "object_store"];

/// Crates that must not be in the graph at all: no patent licence comes with the first, and the second
/// is the separate binary that uses it.
const ALONE: [&str; 2] = ["tfhe", "quorate-tfhe"];

/// One package of the resolved graph.
struct Package<'a> {
    name: &'a str,
    member: bool,
    /// Package ids, with true for an ordinary dependency (false: only a build or test one).
    dependencies: Vec<(&'a str, bool)>,
}

/// Every violation in `cargo metadata --format-version 1`, in words.
///
/// # Errors
/// When the metadata does not have cargo's shape or one of the four crates is not in it: a check
/// that finds nothing to check must not pass.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let graph = graph(metadata)?;
    for layer in LAYERS {
        if !graph.values().any(|package| package.member && package.name == layer) {
            bail!("the workspace has no crate {layer}");
        }
    }
    let mut findings = Vec::new();
    let alone = graph.values().filter(|package| ALONE.contains(&package.name));
    findings.extend(alone.map(|package| format!("{} must stay outside", package.name)));
    for (id, package) in graph.iter().filter(|(_, package)| package.member) {
        findings.extend(wrong_direction(&graph, package));
        if PURE.contains(&package.name) {
            findings.extend(impurities(&graph, id));
        }
    }
    Ok(findings)
}

fn graph(metadata: &Value) -> Result<BTreeMap<&str, Package<'_>>> {
    let members: Vec<&str> =
        list(metadata, "workspace_members")?.iter().filter_map(Value::as_str).collect();
    let mut graph = BTreeMap::new();
    for package in list(metadata, "packages")? {
        let id = text(package, "id")?;
        let member = members.contains(&id);
        graph
            .insert(id, Package { name: text(package, "name")?, member, dependencies: Vec::new() });
    }
    let resolve = metadata.get("resolve").context("metadata has no `resolve`")?;
    for node in list(resolve, "nodes")? {
        let package = graph.get_mut(text(node, "id")?).context("a node that is no package")?;
        for dependency in list(node, "deps")? {
            // `kind` is null for an ordinary dependency, "dev" or "build" otherwise.
            let ordinary = list(dependency, "dep_kinds")?
                .iter()
                .any(|kind| kind.get("kind").is_none_or(Value::is_null));
            package.dependencies.push((text(dependency, "pkg")?, ordinary));
        }
    }
    Ok(graph)
}

/// Members that `package` must not know, tests included.
fn wrong_direction(graph: &BTreeMap<&str, Package<'_>>, package: &Package<'_>) -> Vec<String> {
    let place = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    package
        .dependencies
        .iter()
        .filter_map(|(id, _)| graph.get(id))
        .filter(|used| used.member && used.name != package.name)
        .filter(|used| match (place(package.name), place(used.name)) {
            (Some(user), Some(used)) => used > user,
            (None, Some(_)) => false,
            (_, None) => true,
        })
        .map(|used| format!("{} must not depend on {}", package.name, used.name))
        .collect()
}

/// Paths over ordinary dependencies from the package `root` to an impure crate.
fn impurities(graph: &BTreeMap<&str, Package<'_>>, root: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut paths = BTreeMap::from([(root, String::new())]);
    let mut queue = VecDeque::from([root]);
    while let Some(id) = queue.pop_front() {
        let Some(package) = graph.get(id) else { continue };
        let path = match paths.get(id).map(String::as_str) {
            None | Some("") => package.name.to_owned(),
            Some(before) => format!("{before} -> {}", package.name),
        };
        if IMPURE.contains(&package.name) {
            findings.push(format!("{path}: a pure crate must not reach {}", package.name));
            continue;
        }
        for (next, ordinary) in &package.dependencies {
            if *ordinary && !paths.contains_key(next) {
                paths.insert(next, path.clone());
                queue.push_back(next);
            }
        }
    }
    findings
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value.get(key).and_then(Value::as_array).with_context(|| format!("no list `{key}`"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("no text `{key}`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Metadata of the seven members and some third-party crates with these edges
    /// (from, to, kind; kind "" is ordinary).
    fn metadata(edges: &[(&str, &str, &str)]) -> Value {
        let members: Vec<&str> =
            LAYERS.into_iter().chain(["quorate-tests", "quorate-benches", "xtask"]).collect();
        // Others are in the graph once something uses them.
        let outside = ALONE.into_iter().filter(|name| edges.iter().any(|(_, to, _)| to == name));
        let names: Vec<&str> = members
            .iter()
            .copied()
            .chain(IMPURE)
            .chain(["serde", "hyper"])
            .chain(outside)
            .collect();
        let packages: Vec<Value> =
            names.iter().map(|name| json!({"id": format!("id:{name}"), "name": name})).collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = edges
                    .iter()
                    .filter(|(from, _, _)| from == name)
                    .map(|(_, to, kind)| {
                        let kind = if kind.is_empty() { Value::Null } else { json!(kind) };
                        json!({"pkg": format!("id:{to}"), "dep_kinds": [{"kind": kind}]})
                    })
                    .collect();
                json!({"id": format!("id:{name}"), "deps": deps})
            })
            .collect();
        let members: Vec<String> = members.iter().map(|name| format!("id:{name}")).collect();
        json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}})
    }

    const SOUND: [(&str, &str, &str); 8] = [
        ("quorate-protocols", "quorate-crypto", ""),
        ("quorate-client", "quorate-protocols", ""),
        ("quorate-server", "quorate-client", ""),
        ("quorate-server", "tokio", ""),
        ("quorate-client", "reqwest", ""),
        ("quorate-tests", "quorate-server", "dev"),
        ("quorate-crypto", "serde", ""),
        ("quorate-crypto", "tokio", "dev"),
    ];

    fn with(edge: (&'static str, &'static str, &'static str)) -> Vec<String> {
        let edges: Vec<_> = SOUND.into_iter().chain([edge]).collect();
        check(&metadata(&edges)).unwrap()
    }

    #[test]
    fn the_intended_graph_passes() {
        assert_eq!(check(&metadata(&SOUND)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_upward_edge_is_found_whatever_its_kind() {
        for kind in ["", "build", "dev"] {
            assert_eq!(
                with(("quorate-crypto", "quorate-protocols", kind)),
                ["quorate-crypto must not depend on quorate-protocols"]
            );
        }
        assert_eq!(with(("quorate-protocols", "quorate-server", "dev")).len(), 1);
    }

    #[test]
    fn nothing_may_use_tests_benches_or_xtask() {
        for outsider in ["quorate-tests", "quorate-benches", "xtask"] {
            assert_eq!(with(("quorate-server", outsider, "dev")).len(), 1);
        }
        assert_eq!(with(("xtask", "quorate-tests", "")).len(), 1);
    }

    #[test]
    fn an_impure_crate_is_found_at_any_depth_with_its_path() {
        for impure in IMPURE {
            assert_eq!(with(("quorate-protocols", impure, "")).len(), 1);
        }
        let findings = check(&metadata(
            &[&SOUND[..], &[("serde", "hyper", ""), ("hyper", "tokio", "")]].concat(),
        ))
        .unwrap();
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].starts_with("quorate-crypto -> serde -> hyper -> tokio:"));
    }

    #[test]
    fn a_build_or_test_dependency_does_not_make_a_crate_impure() {
        assert_eq!(with(("quorate-protocols", "reqwest", "build")), Vec::<String>::new());
    }

    #[test]
    fn crates_that_stand_alone_are_found_wherever_they_are_used() {
        for (alone, finding) in
            [("tfhe", "tfhe must stay outside"), ("quorate-tfhe", "quorate-tfhe must stay outside")]
        {
            for user in ["quorate-server", "serde"] {
                for kind in ["", "dev"] {
                    assert_eq!(with((user, alone, kind)), [finding]);
                }
            }
        }
    }

    #[test]
    fn a_missing_layer_is_an_error() {
        let mut metadata = metadata(&SOUND);
        metadata["workspace_members"].as_array_mut().unwrap().remove(0);
        assert!(check(&metadata).is_err());
        assert!(check(&json!({})).is_err());
    }
}
