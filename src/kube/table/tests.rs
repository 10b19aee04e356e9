use super::*;
use crate::kube::fixtures::records;

/// Pods and nodes in random states, against the rows that Kubernetes' own printers made of them.
#[test]
fn rows_as_kubernetes_prints_them() {
    let all = records::<2>(include_bytes!("../../../tests/fixtures/kube/tables.bin.gz"));
    assert!(all.len() >= 600);
    for [object, want] in all {
        let object: Value = serde_json::from_slice(&object).unwrap();
        let want: Value = serde_json::from_slice(&want).unwrap();
        let now = want["now"].as_str().unwrap().parse().unwrap();
        let printer = Printer::of("v1", meta::kind(&object).unwrap());
        let row = printer.row(&object, Include::None, now);
        assert_eq!(row["cells"], want["cells"], "{object}");
        assert_eq!(row["conditions"], want["conditions"], "{object}");
        let columns: Vec<String> =
            printer.columns().iter().map(|c| format!("{} {}", c.name, c.priority)).collect();
        assert_eq!(json!(columns), want["columns"]);
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The first cells of a pod's row.
fn pod(spec: Value, status: Value) -> String {
    let pod = json!({"metadata": {"name": "p", "creationTimestamp": at(-90).to_string()}, "spec": spec, "status": status});
    let row = pod::row(&pod, at(0));
    row.cells.iter().map(|c| c.as_str().unwrap()).collect::<Vec<_>>().join("|")
}

#[test]
fn pods() {
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n"});
    let running = |ready: bool, restarts: i64| json!({"ready": ready, "restartCount": restarts, "state": {"running": {}}});
    let last = json!({"ready": true, "restartCount": 3, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": at(-55).to_string()}}});
    let done = |code: i64, reason: &str| {
        json!({"ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "reason": reason}}})
    };
    let init = json!({"containers": [{}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let side = json!({"containers": [{}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
    let cases = [
        (&two, json!({"phase": "Pending"}), "p|0/2|Pending|0|90s|<none>|n|<none>|<none>"),
        (
            &two,
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [last, running(true, 0)]}),
            "p|2/2|Running|3 (55s ago)|90s|10.0.0.1|n|<none>|<none>",
        ),
        (
            &two,
            json!({"phase": "Running", "containerStatuses": [
                {"restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}, running(true, 1)]}),
            "p|1/2|CrashLoopBackOff|6|90s|<none>|n|<none>|<none>",
        ),
        (
            &two,
            json!({"phase": "Succeeded", "containerStatuses": [done(0, "Completed"), done(0, "Completed")]}),
            "p|0/2|Completed|0|90s|<none>|n|<none>|<none>",
        ),
        (
            &two,
            json!({"phase": "Running", "containerStatuses": [done(0, "Completed"), running(true, 0)]}),
            "p|1/2|NotReady|0|90s|<none>|n|<none>|<none>",
        ),
        (
            &two,
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [done(0, "Completed"), running(true, 0)]}),
            "p|1/2|Running|0|90s|<none>|n|<none>|<none>",
        ),
        (
            &two,
            json!({"phase": "Failed", "containerStatuses": [done(0, "Completed"), done(137, "")]}),
            "p|0/2|ExitCode:137|0|90s|<none>|n|<none>|<none>",
        ),
        (&two, json!({"phase": "Failed", "reason": "Evicted"}), "p|0/2|Evicted|0|90s|<none>|n|<none>|<none>"),
        (
            &init,
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
            "p|0/1|Init:1/2|0|90s|<none>|<none>|<none>|<none>",
        ),
        (
            &init,
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "p|0/1|Init:CrashLoopBackOff|2|90s|<none>|<none>|<none>|<none>",
        ),
        (
            &init,
            json!({"phase": "Failed", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "signal": 9}}}]}),
            "p|0/1|Init:Signal:9|0|90s|<none>|<none>|<none>|<none>",
        ),
        (
            &side,
            json!({"phase": "Running", "initContainerStatuses": [
                {"name": "i", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
                "containerStatuses": [running(true, 0)]}),
            "p|2/2|Running|1|90s|<none>|<none>|<none>|<none>",
        ),
        (
            &json!({"containers": [{}], "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]}),
            json!({"phase": "Running", "conditions": [{"type": "x", "status": "True"}],
                "nominatedNodeName": "m"}),
            "p|0/1|Running|0|90s|<none>|<none>|m|1/2",
        ),
        (
            &two,
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            "p|0/2|SchedulingGated|0|90s|<none>|n|<none>|<none>",
        ),
    ];
    for (spec, status, want) in cases {
        assert_eq!(pod(spec.clone(), status.clone()), want, "{status}");
    }
    let mut going =
        json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
    assert_eq!(pod::row(&going, at(0)).cells[2], "Terminating");
    assert_eq!(pod::row(&going, at(0)).cells[4], "<unknown>");
    going["status"]["reason"] = json!("NodeLost");
    assert_eq!(pod::row(&going, at(0)).cells[2], "Unknown");
}

#[test]
fn nodes() {
    let node = json!({"metadata": {"name": "n", "creationTimestamp": at(-86_400 * 3).to_string(), "labels": {
        "node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge", "node-role.kubernetes.io/": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.3", "kernelVersion": "6.1", "architecture": "arm64"}}});
    let want = [
        "n",
        "NotReady,SchedulingDisabled",
        "edge,worker",
        "3d",
        "v1.36.3",
        "10.0.0.1",
        "<none>",
        "<unknown>",
        "6.1 (arm64)",
        "<unknown>",
    ];
    assert_eq!(node::row(&node, at(0)).cells, want);
    assert_eq!(node::row(&json!({}), at(0)).cells[..3], ["", "Unknown", "<none>"]);
}

#[test]
fn ages() {
    let cases = [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_071_999, "729d"),
        (63_072_000, "2y"),
        (63_158_400, "2y1d"),
        (252_288_000, "8y"),
    ];
    for (seconds, want) in cases {
        assert_eq!(human(seconds), want, "{seconds}");
    }
}

#[test]
fn whole_tables() {
    let head = ListHead {
        kind: "GadgetList".into(),
        api_version: "x/v1".into(),
        resource_version: "7".into(),
        ..ListHead::default()
    };
    let gadget = json!({"kind": "Gadget", "metadata": {"name": "g", "creationTimestamp": at(-300).to_string()}, "spec": 1});
    let got = table(&head, [&gadget], Include::Metadata, Header::Shown, at(0));
    assert_eq!(got["metadata"]["resourceVersion"], "7");
    assert_eq!(got["columnDefinitions"][1]["name"], "Age");
    assert_eq!(got["rows"][0]["cells"], json!(["g", "5m"]));
    assert_eq!(got["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(got["rows"][0]["object"].get("spec"), None);
    let got = table(&head, [&gadget], Include::Object, Header::Left, at(0));
    assert_eq!((&got["columnDefinitions"], &got["rows"][0]["object"]), (&Value::Null, &gadget));

    let head = ListHead { kind: "PodList".into(), api_version: "v1".into(), ..ListHead::default() };
    let done = json!({"status": {"phase": "Succeeded"}});
    let got = table(&head, [&done], Include::None, Header::Shown, at(0));
    assert_eq!(
        got["columnDefinitions"].as_array().unwrap().len(),
        got["rows"][0]["cells"].as_array().unwrap().len()
    );
    assert_eq!(got["rows"][0]["conditions"][0]["type"], "Completed");
    assert_eq!((Include::parse("Object"), Include::parse("x")), (Some(Include::Object), None));
}
