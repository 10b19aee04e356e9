//! Which APIs there are, in the form that clients before Kubernetes 1.26 ask for, made from the form that later ones
//! ask for (apidiscovery.k8s.io/v2): one document holds all of it.

use serde_json::{Value, json};

use super::meta;

/// Below which path the aggregated document lies that tells what is at `path`; `None` if none tells it.
pub fn source(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api"] | ["api", _] => Some("/api"),
        ["apis"] | ["apis", _] | ["apis", _, _] => Some("/apis"),
        _ => None,
    }
}

/// What an API server answers at `path` to a client that knows nothing of the aggregated form; `None` if there is no
/// such group or version.
pub fn plain(aggregated: &Value, path: &str) -> Option<Value> {
    let groups = aggregated.get("items").and_then(Value::as_array)?;
    let group = |name: &str| groups.iter().find(|group| meta::name(group).unwrap_or_default() == name);
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api"] => {
            let versions: Vec<&Value> = versions(group("")?).filter_map(|v| v.get("version")).collect();
            Some(json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []}))
        }
        ["api", version] => resources("", version, group("")?),
        ["apis"] => {
            let groups: Vec<Value> = groups.iter().map(api_group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => {
            let mut found = api_group(group(name)?);
            found["kind"] = json!("APIGroup");
            found["apiVersion"] = json!("v1");
            Some(found)
        }
        ["apis", name, version] => resources(name, version, group(name)?),
        _ => None,
    }
}

fn versions(group: &Value) -> impl Iterator<Item = &Value> {
    group.get("versions").and_then(Value::as_array).into_iter().flatten()
}

fn api_group(group: &Value) -> Value {
    let name = meta::name(group).unwrap_or_default();
    let versions: Vec<Value> = versions(group)
        .filter_map(|version| version.get("version").and_then(Value::as_str))
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn resources(group: &str, version: &str, found: &Value) -> Option<Value> {
    let version_found =
        versions(found).find(|v| v.get("version").and_then(Value::as_str) == Some(version))?;
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut all = Vec::new();
    for resource in version_found.get("resources").and_then(Value::as_array).into_iter().flatten() {
        let name = resource.get("resource").and_then(Value::as_str).unwrap_or_default();
        // One that has only subresources is none itself.
        if resource.get("responseKind").is_some() {
            all.push(entry(name.to_owned(), resource, resource, (group, version)));
        }
        for below in resource.get("subresources").and_then(Value::as_array).into_iter().flatten() {
            let part = below.get("subresource").and_then(Value::as_str).unwrap_or_default();
            all.push(entry(format!("{name}/{part}"), below, resource, (group, version)));
        }
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": all});
    // The oldest of all lists has none.
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    Some(list)
}

/// One resource or subresource; the latter has its scope from the former, and no names of its own.
fn entry(name: String, of: &Value, resource: &Value, (group, version): (&str, &str)) -> Value {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = of.get("responseKind").unwrap_or(&Value::Null);
    let mut entry = json!({
        "name": name,
        "singularName": text(of, "singularResource"),
        "namespaced": text(resource, "scope") == "Namespaced",
        "kind": text(kind, "kind"),
        "verbs": of.get("verbs").cloned().unwrap_or_else(|| json!([])),
    });
    // Where they are empty, they are those of the list.
    let (of_group, of_version) = (text(kind, "group"), text(kind, "version"));
    if !of_version.is_empty() && (of_group.as_str(), of_version.as_str()) != (group, version) {
        entry["group"] = json!(of_group);
        entry["version"] = json!(of_version);
    }
    for key in ["shortNames", "categories"] {
        if let Some(names) = of.get(key) {
            entry[key] = names.clone();
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregated() -> Value {
        json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "apps"}, "versions": [
            {"version": "v1", "resources": [{"resource": "deployments", "singularResource": "deployment",
                "responseKind": {"group": "", "version": "", "kind": "Deployment"}, "scope": "Namespaced",
                "verbs": ["get", "list"], "shortNames": ["deploy"], "categories": ["all"],
                "subresources": [{"subresource": "scale", "verbs": ["get"],
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}]}]},
            {"version": "v1beta1"}]}]})
    }

    #[test]
    fn the_old_form_says_the_same() {
        let all = aggregated();
        let groups = plain(&all, "/apis").unwrap();
        assert_eq!(groups["groups"][0]["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!(groups["groups"][0]["versions"][1]["version"], "v1beta1");
        let list = plain(&all, "/apis/apps/v1").unwrap();
        assert_eq!(list["groupVersion"], "apps/v1");
        assert_eq!(
            list["resources"][0],
            json!({"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "verbs": ["get", "list"], "shortNames": ["deploy"], "categories": ["all"]})
        );
        assert_eq!(
            list["resources"][1],
            json!({"name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale",
                "group": "autoscaling", "version": "v1", "verbs": ["get"]})
        );
        assert_eq!(plain(&all, "/apis/apps").unwrap()["kind"], "APIGroup");
        assert_eq!(plain(&all, "/apis/nothing"), None);
        assert_eq!(plain(&all, "/apis/apps/v9"), None);
        assert_eq!(
            (source("/apis/apps/v1"), source("/api/v1"), source("/version")),
            (Some("/apis"), Some("/api"), None)
        );
    }
}
