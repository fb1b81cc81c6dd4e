//! The bill of materials: what the shipped files are made of, as CycloneDX 1.5.
//! <https://cyclonedx.org/docs/1.5/json/>

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{toolchain::TARGET, workspace};

/// Bill of materials of the release `version`, made of the workspace's packages in `shipped` and all that is compiled into
/// them. Build scripts and macros are not: they run at home.
///
/// # Errors
/// Where cargo cannot tell.
pub fn write(version: &str, shipped: &[String]) -> anyhow::Result<Value> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace::root())
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not readable")?;
    Ok(of(&metadata, version, shipped))
}

fn of(metadata: &Value, version: &str, shipped: &[String]) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let is_macro = |id: &str| {
        let targets = packages.get(id).map(|package| list(&package["targets"])).unwrap_or_default();
        targets.iter().any(|target| list(&target["kind"]).contains(&json!("proc-macro")))
    };
    let mut open: Vec<String> = packages
        .iter()
        .filter(|(_, package)| package["source"].is_null() && shipped.contains(&text(&package["name"])))
        .map(|(id, _)| id.clone())
        .collect();
    let mut found = BTreeSet::new();
    let mut edges = Vec::new();
    while let Some(id) = open.pop() {
        if !found.insert(id.clone()) {
            continue;
        }
        let linked: Vec<String> = list(nodes.get(&id).map_or(&Value::Null, |node| &node["deps"]))
            .iter()
            .filter(|dependency| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
            .map(|dependency| text(&dependency["pkg"]))
            .filter(|id| !is_macro(id))
            .collect();
        edges.push((id, linked.clone()));
        open.extend(linked);
    }
    let name = |id: &str| {
        let package = packages.get(id).unwrap_or(&Value::Null);
        format!("pkg:cargo/{}@{}", text(&package["name"]), text(&package["version"]))
    };
    let components: Vec<Value> = found
        .iter()
        .filter_map(|id| packages.get(id))
        .map(|package| {
            let reference = name(&text(&package["id"]));
            let mut component = json!({
                "type": "library",
                "bom-ref": reference,
                "name": package["name"],
                "version": package["version"],
                "purl": reference,
            });
            if let Some(licence) = package["license"].as_str() {
                // An old form separates alternatives by a slash.
                component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
            }
            component
        })
        .collect();
    edges.sort();
    let dependencies: Vec<Value> = edges
        .iter()
        .map(|(id, linked)| {
            let on: BTreeSet<String> = linked.iter().map(|id| name(id)).collect();
            json!({ "ref": name(id), "dependsOn": on })
        })
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "xen-pv-drivers", "version": version } },
        "components": components,
        "dependencies": dependencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_runs_at_home_is_not() {
        let package = |name: &str, kind: &str, source: Value| {
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source,
                    "targets": [{ "kind": [kind] }] })
        };
        let dependency = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("driver", "cdylib", Value::Null),
                package("tool", "bin", Value::Null),
                package("linked", "lib", json!("registry")),
                package("deep", "lib", json!("registry")),
                package("derive", "proc-macro", json!("registry")),
                package("script", "lib", json!("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "driver", "deps": [
                    dependency("linked", Value::Null), dependency("derive", Value::Null), dependency("script", json!("build")),
                ] },
                { "id": "linked", "deps": [dependency("deep", Value::Null)] },
                { "id": "tool", "deps": [dependency("script", Value::Null)] },
            ] },
        });
        let bill = of(&metadata, "0.1.0", &["driver".into()]);
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["deep", "driver", "linked"]);
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(
            bill["dependencies"][1],
            json!({ "ref": "pkg:cargo/driver@1.0.0", "dependsOn": ["pkg:cargo/linked@1.0.0"] })
        );
    }
}
