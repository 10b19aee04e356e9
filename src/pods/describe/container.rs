//! Containers: what they are and how they fare.

use serde_json::Value;

use super::list;
use super::page::{Page, text};

pub(super) fn all(page: &mut Page, title: &str, specs: &Value, statuses: &Value) {
    let specs: Vec<&Value> = list(specs).collect();
    if specs.is_empty() {
        return;
    }
    page.title(0, title);
    for spec in specs {
        let status = list(statuses).find(|status| status["name"] == spec["name"]);
        one(page, spec, status.unwrap_or(&Value::Null));
    }
}

fn one(page: &mut Page, spec: &Value, status: &Value) {
    page.title(1, text(&spec["name"]));
    page.present(2, "Container ID", &status["containerID"]);
    page.present(2, "Image", &spec["image"]);
    page.present(2, "Image ID", &status["imageID"]);
    let port = |p: &Value| format!("{}/{}", p["containerPort"], p["protocol"].as_str().unwrap_or("TCP"));
    some(page, "Ports", list(&spec["ports"]).map(port).collect::<Vec<_>>().join(", "));
    some(page, "Command", words(&spec["command"]));
    some(page, "Args", words(&spec["args"]));
    state(page, "State", &status["state"]);
    if status["lastState"].as_object().is_some_and(|state| !state.is_empty()) {
        state(page, "Last State", &status["lastState"]);
    }
    if !status.is_null() {
        page.field(2, "Ready", if status["ready"] == true { "True" } else { "False" });
        page.present(2, "Restart Count", &status["restartCount"]);
    }
    for (name, key) in [("Limits", "limits"), ("Requests", "requests")] {
        let amounts = spec["resources"][key].as_object().into_iter().flatten();
        some(
            page,
            name,
            amounts.map(|(what, amount)| format!("{what} {}", plain(amount))).collect::<Vec<_>>().join(", "),
        );
    }
    for (name, key) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if spec[key].is_object() {
            page.field(2, name, &probe(&spec[key]));
        }
    }
    page.list(2, "Environment", &environment(spec));
    page.list(2, "Mounts", &list(&spec["volumeMounts"]).map(mount).collect::<Vec<_>>());
}

fn some(page: &mut Page, name: &str, value: String) {
    if !value.is_empty() {
        page.field(2, name, &value);
    }
}

fn state(page: &mut Page, name: &str, state: &Value) {
    let (word, detail) = match state {
        state if state["running"].is_object() => ("Running", &state["running"]),
        state if state["terminated"].is_object() => ("Terminated", &state["terminated"]),
        state => ("Waiting", &state["waiting"]),
    };
    page.field(2, name, word);
    page.present(3, "Reason", &detail["reason"]);
    page.present(3, "Message", &detail["message"]);
    page.present(3, "Exit Code", &detail["exitCode"]);
    if detail["signal"].as_i64().is_some_and(|signal| signal != 0) {
        page.present(3, "Signal", &detail["signal"]);
    }
    page.present(3, "Started", &detail["startedAt"]);
    page.present(3, "Finished", &detail["finishedAt"]);
}

fn probe(probe: &Value) -> String {
    let number = |name: &str, default: i64| probe[name].as_i64().unwrap_or(default);
    let (http, tcp, grpc) = (&probe["httpGet"], &probe["tcpSocket"], &probe["grpc"]);
    let what = if probe["exec"].is_object() {
        format!("exec [{}]", words(&probe["exec"]["command"]))
    } else if http.is_object() {
        let scheme = http["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        format!("http-get {scheme}://{}:{}{}", text(&http["host"]), plain(&http["port"]), text(&http["path"]))
    } else if tcp.is_object() {
        format!("tcp-socket {}:{}", text(&tcp["host"]), plain(&tcp["port"]))
    } else {
        format!("grpc <pod>:{} {}", plain(&grpc["port"]), text(&grpc["service"]))
    };
    format!(
        "{} delay={}s timeout={}s period={}s #success={} #failure={}",
        what.trim_end(),
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

fn environment(spec: &Value) -> Vec<String> {
    let from = list(&spec["envFrom"]).map(|source| {
        let kind = if source["secretRef"].is_object() { "secretRef" } else { "configMapRef" };
        let word = if kind == "secretRef" { "Secret" } else { "ConfigMap" };
        format!("everything of {word} {}", text(&source[kind]["name"]))
    });
    let single = list(&spec["env"]).map(|variable| {
        let (name, source) = (text(&variable["name"]), &variable["valueFrom"]);
        let key = |kind: &str, word: &str| {
            let of = &source[kind];
            format!("{name}: <key '{}' of {word} {}>", text(&of["key"]), text(&of["name"]))
        };
        if source["secretKeyRef"].is_object() {
            key("secretKeyRef", "Secret")
        } else if source["configMapKeyRef"].is_object() {
            key("configMapKeyRef", "ConfigMap")
        } else if source["fieldRef"].is_object() {
            format!("{name}: ({})", text(&source["fieldRef"]["fieldPath"]))
        } else if source["resourceFieldRef"].is_object() {
            format!("{name}: ({})", text(&source["resourceFieldRef"]["resource"]))
        } else {
            format!("{name}: {}", text(&variable["value"]))
        }
    });
    from.chain(single).collect()
}

fn mount(mount: &Value) -> String {
    let access = if mount["readOnly"] == true { "ro" } else { "rw" };
    let path = mount["subPath"].as_str().map(|path| format!(",path=\"{path}\"")).unwrap_or_default();
    format!("{} from {} ({access}{path})", text(&mount["mountPath"]), text(&mount["name"]))
}

fn words(all: &Value) -> String {
    list(all).map(text).collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
