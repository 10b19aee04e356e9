//! `edge pod get` prints what kubectl printed of the same objects: `tests/fixtures/kubectl` was made by a real
//! kube-apiserver and a real kubectl, see `make.py` there.

use edge::pods::describe::describe;
use edge::pods::get::{Query, get};
use edge::pods::print::{Output, Style};
use serde_json::Value;

struct Case {
    arguments: Vec<String>,
    now: jiff::Timestamp,
    code: i64,
    stdout: String,
    stderr: String,
}

fn cases() -> Vec<Case> {
    let text = include_str!("../fixtures/kubectl/cases.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let case = |case: &Value| Case {
        arguments: case["args"].as_array().unwrap().iter().map(string).collect(),
        now: case["now"].as_str().unwrap().parse().unwrap(),
        code: case["code"].as_i64().unwrap(),
        stdout: string(&case["stdout"]),
        stderr: string(&case["stderr"]),
    };
    cases.iter().map(case).collect()
}

fn pods() -> Vec<Value> {
    let list: Value = serde_json::from_str(include_str!("../fixtures/kubectl/pods.json")).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The few flags of the cases.
fn parse(arguments: &[String]) -> Result<(Query, Style), String> {
    let (mut query, mut style) =
        (Query { namespace: Some("default".into()), ..Query::default() }, Style::default());
    let (mut output, mut template, mut allow_missing) = (None, None, true);
    let mut rest = arguments[2..].iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-n" => query.namespace = rest.next().cloned(),
            "-A" => (query.namespace, style.with_namespace) = (None, true),
            "-l" => query.labels = rest.next().cloned(),
            "--field-selector" => query.fields = rest.next().cloned(),
            "-L" => style.label_columns.extend(rest.next().unwrap().split(',').map(str::to_owned)),
            "-o" => output = rest.next(),
            "--template" => template = rest.next(),
            "--allow-missing-template-keys=false" => allow_missing = false,
            "--no-headers" => style.no_headers = true,
            "--show-labels" => style.show_labels = true,
            "--show-managed-fields" => style.managed_fields = true,
            "--ignore-not-found" => query.ignore_not_found = true,
            name if !name.starts_with('-') => query.names.push(name.to_owned()),
            other => panic!("{other}"),
        }
    }
    let read = |path: &str| std::fs::read_to_string(path);
    style.output =
        Output::parse(output.map(String::as_str), template.map(String::as_str), allow_missing, &read)?;
    Ok((query, style))
}

fn run(case: &Case, pods: &[Value]) -> (String, String, i64) {
    match parse(&case.arguments) {
        Err(error) => (String::new(), format!("error: {error}\n"), 1),
        Ok((query, style)) => {
            let answer = get(pods, &query, &style, case.now);
            let stderr = answer.notes.iter().map(|note| format!("{note}\n")).collect();
            (answer.text, stderr, i64::from(answer.failed))
        }
    }
}

/// kubectl says where in a template it stumbled, and has printed what came before; what is wrong with a
/// selector is told in edge's own words.
fn same_failure(case: &Case, stderr: &str) -> bool {
    let theirs = case.stderr.replace("kyaml,", "");
    if let Some((before, _)) = theirs.split_once("unable to parse requirement") {
        return stderr.starts_with(before);
    }
    let in_template = theirs.starts_with("error: error executing template");
    let cause = stderr.trim_end().rsplit(": ").next().unwrap();
    theirs.trim_end() == stderr.trim_end() || (in_template && theirs.trim_end().ends_with(cause))
}

#[test]
fn edge_prints_what_kubectl_prints() {
    let pods = pods();
    let cases = cases();
    assert!(cases.len() > 250, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let (stdout, stderr, code) = run(case, &pods);
        let failed_in_template = case.code != 0 && case.stderr.contains("error executing");
        let same =
            code == case.code && same_failure(case, &stderr) && (failed_in_template || stdout == case.stdout);
        if !same {
            let arguments = case.arguments[2..].join(" ");
            wrong.push(format!(
                "{arguments}\n--- kubectl {}\n{}{}\n--- edge {code}\n{stdout}{stderr}",
                case.code, case.stdout, case.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n==========\n"));
}

#[test]
fn describe_says_of_each_pod_what_the_table_says() {
    let (cases, pods) = (cases(), pods());
    let table = cases.iter().find(|case| case.arguments[1..] == ["pods", "-A"]).unwrap();
    for line in table.stdout.lines().skip(1) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let pod =
            pods.iter().find(|p| p["metadata"]["namespace"] == cells[0] && p["metadata"]["name"] == cells[1]);
        let page = describe(pod.unwrap(), &[], table.now);
        let status = page.lines().find_map(|line| line.strip_prefix("Status:")).unwrap().trim();
        assert_eq!(status, cells[3], "{page}");
    }
    let crash = pods.iter().find(|pod| pod["metadata"]["name"] == "crash").unwrap();
    let page = describe(crash, &[], table.now);
    for words in [
        "Waiting\n      Reason:           CrashLoopBackOff",
        "Last State:       Terminated",
        "Restart Count:    12",
    ] {
        assert!(page.contains(words), "{words}\n{page}");
    }
}

/// A template from a file is the same template: what kubectl printed of it in the command line is printed of the file.
#[test]
fn templates_from_files_are_those_of_the_command_line() {
    let (cases, pods, folder) = (cases(), pods(), tempfile::tempdir().unwrap());
    let mut of = std::collections::BTreeMap::<&str, u32>::new();
    for case in cases.iter().filter(|case| case.code == 0) {
        for (format, file) in
            [("jsonpath", "jsonpath-file"), ("go-template", "go-template-file"), ("template", "templatefile")]
        {
            let prefix = format!("{format}=");
            let Some(at) = case.arguments.iter().position(|argument| argument.starts_with(&prefix)) else {
                continue;
            };
            let path = folder.path().join("template");
            std::fs::write(&path, &case.arguments[at][prefix.len()..]).unwrap();
            let mut arguments = case.arguments.clone();
            arguments[at] = format!("{file}={}", path.display());
            let from_file =
                Case { arguments, stdout: case.stdout.clone(), stderr: case.stderr.clone(), ..*case };
            let (stdout, stderr, code) = run(&from_file, &pods);
            assert_eq!(
                (stdout.as_str(), code),
                (case.stdout.as_str(), 0),
                "{:?}\n{stderr}",
                from_file.arguments
            );
            *of.entry(file).or_default() += 1;
        }
    }
    assert!(of["jsonpath-file"] > 20 && of["go-template-file"] > 5, "{of:?}");

    let path = folder.path().join("columns");
    std::fs::write(&path, "NAME            PHASE\nmetadata.name   status.phase\n").unwrap();
    let columns = |format: String| {
        let arguments = ["get", "pods", "-A", "-o"].map(str::to_owned).into_iter().chain([format]).collect();
        let case =
            Case { arguments, now: cases[0].now, code: 0, stdout: String::new(), stderr: String::new() };
        run(&case, &pods)
    };
    let from_file = columns(format!("custom-columns-file={}", path.display()));
    assert_eq!(from_file, columns("custom-columns=NAME:metadata.name,PHASE:status.phase".to_owned()));
    assert!(from_file.0.lines().count() > 10 && from_file.2 == 0, "{from_file:?}");
}

/// The words are those of kubectl's `DescribeProbe`.
#[test]
fn describe_tells_of_probes_as_kubectl_does() {
    let mut pod = pods().swap_remove(0);
    let spec = &mut pod["spec"]["containers"][0];
    spec["livenessProbe"] = serde_json::json!({"httpGet": {"path": "/live", "port": 8080, "scheme": "HTTPS"},
        "initialDelaySeconds": 3, "timeoutSeconds": 2, "periodSeconds": 5, "successThreshold": 1, "failureThreshold": 4});
    spec["readinessProbe"] = serde_json::json!({"exec": {"command": ["cat", "/ready"]}});
    spec["startupProbe"] = serde_json::json!({"tcpSocket": {"port": "web"}});
    let page = describe(&pod, &[], cases()[0].now);
    let told = |name: &str| {
        let line = page.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in\n{page}")).trim().to_owned()
    };
    let usual = "delay=0s timeout=1s period=10s #success=1 #failure=3";
    assert_eq!(
        told("Liveness:"),
        "http-get https://:8080/live delay=3s timeout=2s period=5s #success=1 #failure=4"
    );
    assert_eq!(told("Readiness:"), format!("exec [cat /ready] {usual}"));
    assert_eq!(told("Startup:"), format!("tcp-socket :web {usual}"));
}
