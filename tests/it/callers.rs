//! Who may ask edge what. Online the cloud judges and edge is not felt; offline each caller reads what it read itself
//! while the cloud was there, and nobody else is served at all.

use std::collections::BTreeMap;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::callers_streams::streams_work;
use crate::support::{Cut, Edge, KUBE_ADDRESS, NodeOptions, Process, Scene, kubectl_path, seconds};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: credentials, namespace: default}
stringData: {password: s3cret}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: admin, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: client, namespace: default}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: client, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: client}
subjects:
- {kind: ServiceAccount, name: client, namespace: default}
- {kind: ServiceAccount, name: stranger, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-admin}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: admin, namespace: default}]
---
apiVersion: v1
kind: Pod
metadata: {name: talker, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1
    envFrom: [{secretRef: {name: credentials}}]
    command:
    - sh
    - -ec
    - |
      echo hello > /tmp/index.html; busybox httpd -p 8080 -h /tmp
      i=0; while true; do i=$((i+1)); echo line $i; sleep 1; done
"#;

/// Of a node that is not there.
const ELSEWHERE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: default}
spec:
  nodeName: node-elsewhere
  containers: [{name: main, image: "docker.io/library/far:1", imagePullPolicy: Always}]
"#;

const CACHE: &str = "/var/lib/edge/cache.db";
const WAL: &str = "/var/lib/edge/cache.db-wal";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const MANY: &str = "/api/v1/namespaces/many/configmaps";
const SECRET: &str = "/api/v1/namespaces/default/secrets/credentials";

#[test]
fn each_caller_reads_what_it_read_itself() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    let [client, successor, unused, admin] = ["client", "client", "stranger", "admin"]
        .map(|account| cluster.kubectl(&["create", "token", account]));
    let [client, successor, unused, admin] =
        [Caller(client?), Caller(successor?), Caller(unused?), Caller(admin?)];
    ensure!(client.0 != successor.0, "the same token twice");
    let for_other = Caller(cluster.kubectl(&["create", "token", "client", "--audience=other"])?);
    cluster.wait_for("a pod", seconds(60), || {
        ensure!(cluster.pods("default")?.iter().any(|pod| pod.name == "talker" && pod.running()), "not yet");
        Ok(())
    });

    a_watch_from_before_edge_goes_on(&scene, &admin)?;
    nobody_is_served(&scene)?;
    assert_eq!(Caller("nonsense".into()).status(&scene, CONFIGMAPS)?, "401");
    a_refusal_before_the_token_is_looked_at_makes_nobody_known(&scene, &client)?;
    what_anybody_is_told_makes_nobody_known(&scene, &client, &unused)?;
    every_verb_works(&scene, &client)?;
    let compressed = compressed_list(&scene, &admin)?;
    streams_work(&scene, &admin)?;
    assert_eq!(client.status(&scene, SECRET)?, "403");
    let online = client.list(&scene)?;
    ensure!(online.len() > 1, "nothing to compare: {online:?}");
    scene.kubectl(&["get", "pods", "-A", "--field-selector", "spec.nodeName=node-1"])?;
    pods_of_others_are_not_this_nodes(&scene, &admin)?;
    // Asked of the cloud itself, so that edge has never seen this form.
    let apis = old_discovery(|path| cluster.raw(path))?;
    let as_client = ["-H", "Impersonate-User: system:serviceaccount:default:client"];
    assert_eq!(admin.status_with(&scene, &as_client, CONFIGMAPS)?, "200");
    cluster.wait_for("the APIs, read ahead", seconds(30), || {
        let known = scene.node.machine()?.output(&["grep", "-qaF", "APIGroupDiscoveryList", CACHE, WAL])?;
        ensure!(known.status.success(), "not yet");
        Ok(())
    });

    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    let offline = old_discovery(|path| scene.node.machine()?.shell(&format!("{IDENTITY} {path}")))?;
    for (path, online) in &apis {
        assert_eq!(offline.get(path), Some(online), "`{path}` as clients of before 1.26 ask for it");
    }
    let absent = format!("{IDENTITY} /apis/none.example/v1 -o /dev/null -w '%{{http_code}}'");
    assert_eq!(scene.node.machine()?.shell(&absent)?, "404", "a group that the cloud does not have");
    judged_without_the_cloud(&scene, &client, &successor, &unused, &online)?;
    assert_eq!(for_other.status(&scene, CONFIGMAPS)?, "401", "a token that is not for the API");
    no_events_of_who_may_make_none(&scene, &client)?;
    assert_eq!(admin.status(&scene, CONFIGMAPS)?, "503", "read in another's name only");
    let found: Value = serde_json::from_str(&admin.answer(&scene, &[], MANY)?.1)?;
    assert_eq!(data_of(&found)?, data_of(&compressed)?, "what came compressed");
    kubelets_own_port_is_closed(&scene, &admin)?;
    a_placeholder_only_for_what_was_never_issued(&scene)?;
    kubelets_kubeconfig_reads(&scene)?;
    scene.edge.kill();
    scene.edge.start(&scene.node)?;
    judged_without_the_cloud(&scene, &client, &successor, &unused, &online)
        .context("after a restart of the daemon")
}

/// Who has listed at the cloud itself before there was an edge watches on through it.
fn a_watch_from_before_edge_goes_on(scene: &Scene, admin: &Caller) -> Result<()> {
    const MAPS: &str = "/api/v1/namespaces/kube-public/configmaps";
    let before: Value = serde_json::from_str(&scene.cluster.raw(MAPS)?)?;
    let version = before["metadata"]["resourceVersion"].as_str().context("no version")?;
    let made = ["create", "configmap", "since", "--namespace=kube-public", "--from-literal=a=1"];
    scene.cluster.kubectl(&made)?;
    let watch = format!("{MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=2");
    let told = admin.answer(scene, &[], &watch)?;
    ensure!(told.0 == "200" && told.1.contains("\"ADDED\"") && told.1.contains("\"since\""), "{told:?}");
    Ok(())
}

/// A list in a namespace that nobody watches, large enough for an API server to compress it.
fn compressed_list(scene: &Scene, admin: &Caller) -> Result<Value> {
    let value = "text ".repeat(200);
    let objects = (0..300).map(|n| {
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}, namespace: many}}\ndata: {{k: '{n} {value}'}}\n")
    });
    scene.cluster.kubectl(&["create", "namespace", "many"])?;
    scene.cluster.apply(&objects.collect::<String>())?;
    let (code, answer) = admin.answer(scene, &["--compressed", "-D", "/run/head"], MANY)?;
    assert_eq!(code, "200", "{answer}");
    let head = scene.node.machine()?.read("/run/head")?.to_lowercase();
    ensure!(head.contains("content-encoding: gzip"), "it did not come compressed: {head}");
    let list: Value = serde_json::from_str(&answer)?;
    assert_eq!(data_of(&list)?.len(), 300 + 1, "and the authorities that each namespace has");
    Ok(list)
}

fn data_of(list: &Value) -> Result<BTreeMap<String, Value>> {
    let items = list["items"].as_array().context("no items")?;
    Ok(items.iter().map(|item| (item["metadata"]["name"].to_string(), item["data"].clone())).collect())
}

/// Nobody can say who asks there.
fn kubelets_own_port_is_closed(scene: &Scene, admin: &Caller) -> Result<()> {
    let bearer = format!("Authorization: Bearer {}", admin.0);
    let argv = [
        "curl",
        "-sk",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code}",
        "-H",
        &*bearer,
        "https://127.0.0.1:10250/pods",
    ];
    let answer = scene.node.machine()?.run(&argv)?;
    ensure!(answer.ends_with("\n401"), "{answer}");
    Ok(())
}

fn a_placeholder_only_for_what_was_never_issued(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    let ask = |spec: &Value| -> Result<Value> {
        let body = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        machine.write("/run/asked", &body.to_string())?;
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        let answer = machine.shell(&format!(
            "{IDENTITY} {path} -H 'Content-Type: application/json' --data @/run/asked -w '\\n%{{http_code}}'"
        ))?;
        let (body, code) = answer.rsplit_once('\n').context("no code")?;
        ensure!(code == "201", "{code}: {body}");
        Ok(serde_json::from_str(body)?)
    };
    let never = ask(&serde_json::json!({"audiences": ["never"], "expirationSeconds": 3607}))?;
    let token = never["status"]["token"].as_str().context("no token")?;
    let signature = URL_SAFE_NO_PAD.decode(token.rsplit('.').next().unwrap_or_default())?;
    ensure!(signature.starts_with(b"placeholder"), "{never}");
    let ends: jiff::Timestamp = never["status"]["expirationTimestamp"].as_str().context("no end")?.parse()?;
    ensure!(ends <= jiff::Timestamp::now(), "it ends at {ends}");
    let pods = scene.node.pods()?;
    let talker = pods.iter().find(|pod| pod.name == "talker").context("no talker")?;
    let bound = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": "talker", "uid": talker.uid});
    let real = ask(&serde_json::json!({"expirationSeconds": 3607, "boundObjectRef": bound}))?;
    let mounted = machine.shell(&format!(
        "cat /var/lib/kubelet/pods/{}/volumes/kubernetes.io~projected/*/token",
        talker.uid
    ))?;
    assert_eq!(real["status"]["token"].as_str(), Some(mounted.trim()));
    Ok(())
}

/// A client that reads all pods brings those of other nodes into the cache; what is said of this node leaves them out.
fn pods_of_others_are_not_this_nodes(scene: &Scene, admin: &Caller) -> Result<()> {
    scene.cluster.apply(ELSEWHERE)?;
    assert_eq!(admin.status(scene, "/api/v1/pods")?, "200");
    scene.cluster.wait_for("the pod of another node, in the cache", seconds(10), || {
        let known = scene.node.machine()?.output(&["grep", "-qaF", "elsewhere", CACHE, WAL])?;
        ensure!(known.status.success(), "not yet");
        Ok(())
    });
    let status = scene.edge.status(&scene.node)?;
    let risks = status["atRisk"].as_array().context("no risks")?;
    let of = |pod: &str| risks.iter().filter(|risk| risk["pod"] == pod).count();
    // Its tolerations end after five minutes, as the cloud sets them.
    assert_eq!((of("default/talker"), of("default/elsewhere")), (1, 0), "{risks:?}");
    the_patch_mends(scene, risks)?;
    scene.cluster.kubectl(&["delete", "pod", "elsewhere", "--grace-period=0", "--force"])?;
    Ok(())
}

/// Of a pod that nothing makes: its own tolerations.
fn the_patch_mends(scene: &Scene, risks: &[Value]) -> Result<()> {
    let risk = risks.iter().find(|risk| risk["pod"] == "default/talker").context("no risk")?;
    let words = risk["mend"].as_array().context("no patch")?.iter().filter_map(Value::as_str);
    scene.cluster.kubectl(&words.collect::<Vec<_>>())?;
    scene.cluster.wait_for("the pod to be at no risk", seconds(20), || {
        let status = scene.edge.status(&scene.node)?;
        let risks = status["atRisk"].as_array().context("no risks")?;
        ensure!(risks.iter().all(|risk| risk["pod"] != "default/talker"), "{risks:?}");
        Ok(())
    });
    Ok(())
}

/// The APIs, as a client asks for them that does not know the aggregated form: path by path.
fn old_discovery(ask: impl Fn(&str) -> Result<String>) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    while let Some(path) = paths.pop() {
        let text = ask(&path)?;
        let mut answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        for group in answer["groups"].as_array().into_iter().flatten() {
            let versions = group["versions"].as_array().into_iter().flatten();
            paths
                .extend(versions.map(|version| {
                    format!("/apis/{}", version["groupVersion"].as_str().unwrap_or_default())
                }));
        }
        comparable(&mut answer);
        found.insert(path, answer);
    }
    ensure!(found.len() > 15, "{:?}", found.keys());
    Ok(found)
}

/// Without what only the older form has, and which no client needs.
fn comparable(answer: &mut Value) {
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("serverAddressByClientCIDRs");
    }
    if let Some(resources) = answer["resources"].as_array_mut() {
        for resource in resources.iter_mut().filter_map(Value::as_object_mut) {
            resource.remove("storageVersionHash");
        }
        resources.sort_by_key(|resource| resource["name"].to_string());
    }
}

/// curl with the kubelet's certificate, as old clients ask; a path follows.
const IDENTITY: &str = r#"cd /run
    get() { sed -n "s/.*$1: *//p" /etc/kubernetes/kubelet.kubeconfig | tr -d '"' | base64 -d; }
    get client-certificate-data > me.crt; get client-key-data > me.key
    ask() { path=$1; shift; curl -sk --max-time 10 --cert me.crt --key me.key -H 'Accept: application/json, */*' "https://127.0.0.1:6445$path" "$@"; }
    ask"#;

/// Callers without a certificate or a token, whatever they ask.
fn nobody_is_served(scene: &Scene) -> Result<()> {
    for path in
        ["/", "/version", "/healthz", "/metrics", "/api", CONFIGMAPS, SECRET, "/api/v1/pods?watch=true"]
    {
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            let answer = curl(scene, &["-X", method], path)?;
            let (body, code) = answer.rsplit_once('\n').context("no code")?;
            ensure!(code == "401", "{method} {path} is answered {code}");
            let status: Value = serde_json::from_str(body)?;
            ensure!(status["kind"] == "Status" && status["reason"] == "Unauthorized", "{status}");
        }
    }
    Ok(())
}

/// An API server that cannot read `timeout` says so to anybody. Offline the same token is a stranger's.
fn a_refusal_before_the_token_is_looked_at_makes_nobody_known(scene: &Scene, client: &Caller) -> Result<()> {
    let forged = forged(client)?;
    assert_eq!(client.status(scene, CONFIGMAPS)?, "200");
    assert_eq!(forged.status(scene, &format!("{CONFIGMAPS}?timeout=x"))?, "400");
    Ok(())
}

/// An API server reads some Authorization headers otherwise than one would think, and answers nobody in particular what
/// it tells everybody. Offline the forged token is a stranger's.
fn what_anybody_is_told_makes_nobody_known(scene: &Scene, client: &Caller, valid: &Caller) -> Result<()> {
    let forged = forged(client)?.0;
    let cloud = |path: &str, headers: &str| {
        let argv = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", headers];
        let url = format!("{KUBE_ADDRESS}{path}");
        scene.node.machine()?.run(&[&argv[..], &[&url]].concat())
    };
    let two_spaces = format!("Authorization: Bearer  {forged}");
    assert_eq!(
        cloud("/version", &two_spaces)?,
        "200",
        "the cloud tells nobody its version: nothing is tried here"
    );
    let (plain, two) =
        (format!("Authorization: Bearer {forged}"), format!("Authorization: Bearer {} {forged}", valid.0));
    let (first, second) = (format!("Authorization: Bearer {}", valid.0), &plain);
    for path in ["/version", "/healthz", "/api", CONFIGMAPS] {
        for (headers, expected) in [
            (vec![&*two_spaces], "401"),
            (vec![&*two], "401"),
            (vec![&*first, second], "401"),
            (vec![&*plain], "401"),
            (vec![&*plain, "Connection: authorization"], "400"),
            (vec![&*plain, "Connection: close, Authorization"], "400"),
        ] {
            let with: Vec<&str> = headers.iter().flat_map(|header| ["-H", *header]).collect();
            let answer = curl(scene, &with, path)?;
            let code = answer.rsplit_once('\n').context("no code")?.1;
            ensure!(code == expected, "{path} is answered {code} and not {expected}");
        }
    }
    Ok(())
}

fn every_verb_works(scene: &Scene, client: &Caller) -> Result<()> {
    let watch = client.spawn(scene, "client-watch", &["get", "configmaps", "-w", "-o", "name"])?;
    client.run(scene, &["create", "configmap", "made", "--from-literal=a=1"])?;
    client.run(scene, &["create", "configmap", "kept", "--from-literal=a=1"])?;
    scene.cluster.wait_for("an event of a watch", seconds(20), || {
        ensure!(watch.log().contains("configmap/made"), "{}", watch.log());
        Ok(())
    });
    client.run(scene, &["patch", "configmap", "made", "-p", r#"{"data": {"a": "2"}}"#])?;
    let value = client.run(scene, &["get", "configmap", "made", "-o", "jsonpath={.data.a}"])?;
    ensure!(value == "2", "patched to `{value}`");
    ensure!(client.run(scene, &["get", "configmaps"])?.contains("made"));
    client.run(scene, &["delete", "configmap", "made"])?;
    client.run(scene, &["get", "configmap", "made"]).err().context("a deleted object is there")?;
    let refused = client.run(scene, &["get", "secrets"]).err().context("what the cloud forbids is served")?;
    ensure!(format!("{refused:#}").contains("Forbidden"), "{refused:#}");
    Ok(())
}

fn judged_without_the_cloud(
    scene: &Scene,
    client: &Caller,
    successor: &Caller,
    unused: &Caller,
    online: &[String],
) -> Result<()> {
    nobody_is_served(scene)?;
    for known in [client, successor] {
        ensure!(known.list(scene)? == online, "it reads what it read");
        ensure!(known.status(scene, &format!("{CONFIGMAPS}/kept"))? == "200");
        ensure!(
            known.status(scene, &format!("{CONFIGMAPS}/made"))? == "404",
            "deleted while the cloud was there"
        );
        for unread in [SECRET, "/api/v1/pods", "/api/v1/namespaces/default/secrets", "/api/v1/configmaps"] {
            let code = known.status(scene, unread)?;
            ensure!(code == "503", "`{unread}`, which it never read, is answered {code}");
        }
    }
    ensure!(client.run(scene, &["get", "configmaps"])?.contains("kept"), "kubectl prints the table");
    scene.node.machine()?.shell("head -c 4194304 /dev/zero > /run/large")?;
    for unknown in [unused, &forged(client)?, &Caller("nonsense".into())] {
        for path in [CONFIGMAPS, SECRET, "/version", "/api"] {
            let code = unknown.status(scene, path)?;
            ensure!(code == "401", "an unknown token is answered {code} for `{path}`");
        }
        let large = ["-X", "POST", "--data-binary", "@/run/large"];
        let code = unknown.status_with(scene, &large, CONFIGMAPS)?;
        ensure!(code == "401", "an unknown token that sends more than is taken is answered {code}");
        let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
        let path = "/api/v1/namespaces/default/pods/talker/exec?command=sh";
        let code = unknown.status_with(scene, &upgrade, path)?;
        ensure!(code == "401", "an unknown token that wants an upgrade is answered {code}");
    }
    Ok(())
}

/// Events are told in their author's name, so only of those whom the cloud let make some.
fn no_events_of_who_may_make_none(scene: &Scene, client: &Caller) -> Result<()> {
    let event = r#"{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "made up",
        "involvedObject": {"kind": "Pod", "name": "talker", "namespace": "default"}}"#;
    for (method, kind, name) in
        [("POST", "application/json", ""), ("PATCH", "application/merge-patch+json", "/e")]
    {
        for namespace in ["default", "kube-system"] {
            let kind = format!("Content-Type: {kind}");
            let path = format!("/api/v1/namespaces/{namespace}/events{name}");
            let code = client.status_with(scene, &["-X", method, "-H", &kind, "-d", event], &path)?;
            ensure!(code == "503", "{method} {path} is answered {code}");
        }
    }
    Ok(())
}

fn kubelets_kubeconfig_reads(scene: &Scene) -> Result<()> {
    let table = scene.kubectl(&["get", "pods", "-A", "--field-selector", "spec.nodeName=node-1"])?;
    let (head, row) = table.trim().split_once('\n').context("no row")?;
    ensure!(head.split_whitespace().collect::<Vec<_>>()[..3] == ["NAMESPACE", "NAME", "READY"], "{table}");
    ensure!(row.contains("talker") && row.contains("1/1") && row.contains("Running"), "{table}");
    scene.kubectl(&["get", "--raw", SECRET])?;
    let unsynced = scene.kubectl(&["get", "deployments", "-A"]).err().context("an unread list is served")?;
    ensure!(!format!("{unsynced:#}").contains("No resources found"), "{unsynced:#}");
    Ok(())
}

/// The client's token with other claims signed by the same signature, still naming the known account.
fn forged(client: &Caller) -> Result<Caller> {
    let mut parts = client.0.split('.');
    let (head, claims, signature) = (
        parts.next().context("no header")?,
        parts.next().context("no claims")?,
        parts.next().context("no signature")?,
    );
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    claims["jti"] = "forged".into();
    Ok(Caller(format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))))
}

/// Someone with a bearer token.
pub struct Caller(pub String);

impl Caller {
    /// kubectl through edge.
    pub fn argv(&self, args: &[&str]) -> Result<Vec<String>> {
        let mut argv = vec![
            kubectl_path()?,
            "--kubeconfig=/dev/null".into(),
            format!("--server=https://{}", Edge::PROXY),
            "--certificate-authority=/var/lib/edge/pki/ca.crt".into(),
            format!("--token={}", self.0),
            "--namespace=default".into(),
            format!("--cache-dir=/run/kubectl-{}", self.0.len()),
        ];
        argv.extend(args.iter().map(|arg| (*arg).to_owned()));
        Ok(argv)
    }

    fn output(&self, scene: &Scene, args: &[&str]) -> Result<Output> {
        let argv = self.argv(args)?;
        scene.node.machine()?.output(&argv.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// kubectl through edge, which must succeed; its standard output.
    fn run(&self, scene: &Scene, args: &[&str]) -> Result<String> {
        let output = self.output(scene, args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}`: {}", args.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, in the background.
    pub fn spawn(&self, scene: &Scene, name: &str, args: &[&str]) -> Result<Process> {
        let argv = self.argv(args)?;
        scene.node.spawn(name, &argv.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    /// The names of the ConfigMaps it is shown.
    fn list(&self, scene: &Scene) -> Result<Vec<String>> {
        let list: Value = serde_json::from_str(&self.run(scene, &["get", "--raw", CONFIGMAPS])?)?;
        let items = list["items"].as_array().context("no items")?;
        Ok(items.iter().map(|item| item["metadata"]["name"].to_string()).collect())
    }

    /// The HTTP status of a GET.
    fn status(&self, scene: &Scene, path: &str) -> Result<String> {
        self.status_with(scene, &[], path)
    }

    fn status_with(&self, scene: &Scene, more: &[&str], path: &str) -> Result<String> {
        Ok(self.answer(scene, more, path)?.0)
    }

    /// The HTTP status of an answer, and its body.
    pub fn answer(&self, scene: &Scene, more: &[&str], path: &str) -> Result<(String, String)> {
        let bearer = format!("Authorization: Bearer {}", self.0);
        let answer = curl(scene, &[&["-H", &bearer], more].concat(), path)?;
        let (body, code) = answer.rsplit_once('\n').context("no code")?;
        Ok((code.to_owned(), body.to_owned()))
    }
}

/// The body of an answer and, on a line of its own, its code.
fn curl(scene: &Scene, more: &[&str], path: &str) -> Result<String> {
    let url = format!("https://{}{path}", Edge::PROXY);
    let argv = ["curl", "-sk", "--http1.1", "--max-time", "10", "-w", "\n%{http_code}"];
    scene.node.machine()?.run(&[&argv, more, &[&url]].concat())
}
