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
