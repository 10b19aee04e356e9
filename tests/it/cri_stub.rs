//! A runtime that says what a test lets it say, over the real protocol: what real ones do too seldom to wait for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use edge::cri::{Addresses, Runtime, Settings, v1};
use edge::pods::observe::observe;
use edge::pods::restart::{Outcome, Plan, Target, carry_out, wait};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::UnixListener;

/// What the stub has, and what it was asked to do.
#[derive(Default)]
pub struct Fake {
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
    exit_codes: HashMap<String, i32>,
    /// Containers whose status cannot be told.
    untold: Vec<String>,
    /// So many times somebody else is at what is to be removed.
    busy: u32,
    /// Containers that are started again as soon as they have stopped: by which id.
    again: HashMap<String, String>,
    /// The addresses of sandboxes; of the others, all have the same one.
    addresses: HashMap<String, Vec<String>>,
    /// The JSON of what containers were made with.
    made: HashMap<String, String>,
    /// It never tells what it has.
    mute: bool,
    /// The condition that does not hold.
    lacks: Option<&'static str>,
    /// Calls that have come, answered or not.
    heard: Vec<String>,
    done: Vec<String>,
}

type Failed = (u32, &'static str);

/// It serves as long as it lives.
pub struct Stub {
    runtime: Runtime,
    fake: Arc<Mutex<Fake>>,
    folder: tempfile::TempDir,
}

impl Stub {
    pub fn new(fake: Fake) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("c.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let fake = Arc::new(Mutex::new(fake));
        let served = fake.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let fake = served.clone();
                let service = hyper::service::service_fn(move |request| answer(fake.clone(), request));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        let settings = Settings { endpoint: endpoint(&folder), ..Settings::default() };
        Self { runtime: Runtime::new(&settings).unwrap(), fake, folder }
    }

    pub fn endpoint(&self) -> String {
        endpoint(&self.folder)
    }

    pub fn done(&self) -> Vec<String> {
        self.fake.lock().unwrap().done.clone()
    }

    pub fn has_heard(&self, call: &str) -> bool {
        self.fake.lock().unwrap().heard.iter().any(|heard| heard == call)
    }

    /// From now on it takes calls and answers none.
    pub fn falls_silent(&self) {
        let mut fake = self.fake.lock().unwrap();
        fake.mute = true;
        fake.heard.clear();
    }
}

fn endpoint(folder: &tempfile::TempDir) -> String {
    format!("unix://{}", folder.path().join("c.sock").display())
}

type Body = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(
    fake: Arc<Mutex<Fake>>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let call = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let message = request.into_body().collect().await.unwrap().to_bytes().slice(5..);
    let mute = {
        let mut fake = fake.lock().unwrap();
        fake.heard.push(call.clone());
        fake.mute
    };
    if mute {
        std::future::pending::<()>().await;
    }
    if call == "StopContainer" {
        stop(&fake, &message).await;
    }
    let said = fake.lock().unwrap().say(&call, &message);
    let (code, text) = said.as_ref().err().copied().unwrap_or((0, ""));
    let mut frames = Vec::new();
    if let Ok(message) = said {
        let mut data = BytesMut::from(&[0][..]);
        data.put_u32(u32::try_from(message.len()).unwrap());
        data.put_slice(&message);
        frames.push(Ok(Frame::data(data.freeze())));
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", http::HeaderValue::from_static(text));
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(http::Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

/// One whose name begins with `slow` takes a while.
async fn stop(fake: &Mutex<Fake>, message: &[u8]) {
    let asked = v1::StopContainerRequest::decode(message).unwrap();
    if asked.container_id.starts_with("slow") {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut fake = fake.lock().unwrap();
    fake.done.push(format!("stop {} {}", asked.container_id, asked.timeout));
    if asked.container_id.contains("stuck") {
        return;
    }
    let exited = v1::ContainerState::ContainerExited.into();
    let at = fake.containers.iter().position(|c| c.id == asked.container_id).unwrap();
    fake.containers[at].state = exited;
    if let Some(id) = fake.again.remove(&asked.container_id) {
        let state = v1::ContainerState::ContainerRunning.into();
        let before = fake.containers[at].clone();
        fake.containers.push(v1::Container { id, state, created_at: before.created_at + 1, ..before });
    }
}

impl Fake {
    pub fn of(sandboxes: Vec<v1::PodSandbox>, containers: Vec<v1::Container>) -> Self {
        Self { sandboxes, containers, ..Self::default() }
    }

    /// One of whose conditions does not hold: `RuntimeReady` or `NetworkReady`.
    pub fn without(condition: &'static str) -> Self {
        Self { lacks: Some(condition), ..Self::default() }
    }

    fn say(&mut self, call: &str, message: &[u8]) -> Result<Vec<u8>, Failed> {
        Ok(match call {
            "Status" => {
                let condition = |name: &str| v1::RuntimeCondition {
                    r#type: name.to_owned(),
                    status: self.lacks != Some(name),
                    ..Default::default()
                };
                let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
                let status = Some(v1::RuntimeStatus { conditions });
                v1::StatusResponse { status, ..Default::default() }.encode_to_vec()
            }
            "ListPodSandbox" => v1::ListPodSandboxResponse { items: self.sandboxes.clone() }.encode_to_vec(),
            "ListContainers" => {
                v1::ListContainersResponse { containers: self.containers.clone() }.encode_to_vec()
            }
            "ContainerStatus" => {
                let id = v1::ContainerStatusRequest::decode(message).unwrap().container_id;
                if self.untold.contains(&id) {
                    return Err((13, "its task is in a state that nobody knows"));
                }
                let container =
                    self.containers.iter().find(|c| c.id == id).ok_or((5, "no such container"))?;
                let exit_code = self.exit_codes.get(&id).copied().unwrap_or(0);
                let state = container.state;
                let info = self.made.get(&id).map(|made| ("info".to_owned(), made.clone()));
                let status = v1::ContainerStatus { id, state, exit_code, ..v1::ContainerStatus::default() };
                let info = info.into_iter().collect();
                v1::ContainerStatusResponse { status: Some(status), info }.encode_to_vec()
            }
            "PodSandboxStatus" => {
                let id = v1::PodSandboxStatusRequest::decode(message).unwrap().pod_sandbox_id;
                if self.untold.contains(&id) {
                    return Err((13, "its network cannot be read"));
                }
                let mut own = self.addresses.get(&id).cloned().unwrap_or(vec!["10.88.1.9".to_owned()]);
                let additional_ips = own.split_off(1).into_iter().map(|ip| v1::PodIp { ip }).collect();
                let network = v1::PodSandboxNetworkStatus { ip: own.remove(0), additional_ips };
                let status = v1::PodSandboxStatus { id, network: Some(network), ..Default::default() };
                v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() }.encode_to_vec()
            }
            "StopContainer" => {
                let id = v1::StopContainerRequest::decode(message).unwrap().container_id;
                if id.contains("stuck") {
                    return Err((2, "its process cannot be killed"));
                }
                Vec::new()
            }
            "StopPodSandbox" | "RemovePodSandbox" => {
                self.done.push(call.to_owned());
                if call == "RemovePodSandbox" && self.busy > 0 {
                    self.busy -= 1;
                    return Err((2, "failed to set removing state: container is already in removing state"));
                }
                Vec::new()
            }
            _ => return Err((12, "not known here")),
        })
    }
}

fn labels(uid: &str, name: &str) -> HashMap<String, String> {
    let own = [("io.kubernetes.pod.uid", uid), ("io.kubernetes.container.name", name)];
    own.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

pub fn sandbox(uid: &str, id: &str) -> v1::PodSandbox {
    v1::PodSandbox { id: id.to_owned(), labels: labels(uid, ""), ..Default::default() }
}

pub fn container(uid: &str, sandbox: &str, name: &str, id: &str, state: v1::ContainerState) -> v1::Container {
    v1::Container {
        id: id.to_owned(),
        pod_sandbox_id: sandbox.to_owned(),
        labels: labels(uid, name),
        state: state.into(),
        ..Default::default()
    }
}

pub const RUNS: v1::ContainerState = v1::ContainerState::ContainerRunning;
const EXITED: v1::ContainerState = v1::ContainerState::ContainerExited;

fn target(name: &str, grace: u64) -> Target {
    Target { name: name.to_owned(), id: format!("{name}-1"), grace: Duration::from_secs(grace) }
}

fn plan(containers: Vec<Target>, sidecars: Vec<Target>, may_finish: &[&str]) -> Plan {
    let all = || containers.iter().chain(&sidecars);
    Plan {
        pod: "ns/web".to_owned(),
        uid: "u".to_owned(),
        sandbox: Some("sandbox-1".to_owned()),
        graces: all().map(|t| (t.name.clone(), t.grace)).collect(),
        expected: all().map(|t| t.name.clone()).chain(may_finish.iter().map(|n| (*n).to_owned())).collect(),
        may_finish: may_finish.iter().map(|name| (*name).to_owned()).collect(),
        notes: Vec::new(),
        containers,
        sidecars,
    }
}

#[tokio::test]
async fn what_is_started_again_meanwhile_is_asked_to_stop_too_before_its_sandbox_ends() {
    let running = |name: &str| container("u", "sandbox-1", name, &format!("{name}-1"), RUNS);
    let stub = Stub::new(Fake {
        sandboxes: vec![sandbox("u", "sandbox-1")],
        containers: ["slow", "quick", "mesh"].map(running).into(),
        again: [("quick-1", "quick-2"), ("mesh-1", "mesh-2")].map(|(a, b)| (a.into(), b.into())).into(),
        ..Fake::default()
    });
    let plan = plan(vec![target("slow", 20), target("quick", 7)], vec![target("mesh", 3)], &[]);
    carry_out(&stub.runtime, &plan).await.unwrap();
    let expected = [
        "stop quick-1 7",
        "stop slow-1 20",
        "stop mesh-1 3",
        "stop quick-2 7",
        "stop mesh-2 3",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];
    assert_eq!(stub.done(), expected);
}

#[tokio::test]
async fn a_sandbox_is_removed_though_the_kubelet_tidies_up_in_it() {
    for (busy, removed) in [(2, true), (1000, false)] {
        let stub = Stub::new(Fake { sandboxes: vec![sandbox("u", "sandbox-1")], busy, ..Fake::default() });
        let carried_out = carry_out(&stub.runtime, &plan(Vec::new(), Vec::new(), &[])).await;
        assert_eq!(carried_out.is_ok(), removed, "{carried_out:?}");
        let tries = stub.done().iter().filter(|call| *call == "RemovePodSandbox").count();
        assert_eq!(tries, if removed { 3 } else { 26 });
    }
}

#[tokio::test]
async fn one_that_has_finished_again_was_restarted() {
    let stub = Stub::new(Fake {
        sandboxes: vec![sandbox("u", "sandbox-2")],
        containers: vec![
            container("u", "sandbox-2", "main", "main-2", RUNS),
            container("u", "sandbox-2", "job", "job-2", EXITED),
        ],
        ..Fake::default()
    });
    let plan = plan(vec![target("main", 2)], Vec::new(), &["job"]);
    let waited = wait(&stub.runtime, &plan, Duration::from_secs(5), async || false).await.unwrap();
    let Outcome::Running(running) = waited else { panic!("{waited:?}") };
    let told: Vec<(&str, bool)> = running.iter().map(|r| (r.id.as_str(), r.finished)).collect();
    assert_eq!(told, [("main-2", false), ("job-2", true)]);
    // One that has failed is the kubelet's to start again.
    stub.fake.lock().unwrap().exit_codes.insert("job-2".to_owned(), 3);
    let waited = wait(&stub.runtime, &plan, Duration::from_millis(300), async || false).await.unwrap();
    let Outcome::TimedOut { missing, .. } = waited else { panic!("{waited:?}") };
    assert_eq!(missing, ["job"]);
}

#[tokio::test]
async fn one_object_that_cannot_be_told_hides_no_other() {
    let stub = Stub::new(Fake {
        sandboxes: vec![sandbox("dark", "sandbox-dark"), sandbox("clear", "sandbox-clear")],
        containers: vec![
            container("dark", "sandbox-dark", "main", "dark-1", EXITED),
            container("clear", "sandbox-clear", "main", "clear-1", EXITED),
        ],
        exit_codes: [("clear-1".to_owned(), 3)].into(),
        untold: vec!["dark-1".to_owned(), "sandbox-dark".to_owned()],
        ..Fake::default()
    });
    let pod = |uid: &str| -> Value {
        json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid}, "spec": {"restartPolicy": "OnFailure",
               "containers": [{"name": "main"}]}, "status": {"phase": "Running"}})
    };
    let observed = observe(&stub.runtime, vec![pod("dark"), pod("clear")]).await;
    assert!(observed.runtime.is_ok(), "{:?}", observed.runtime);
    let of = |uid: &str| observed.pods.iter().find(|pod| pod["metadata"]["uid"] == uid).unwrap();
    let ended = |uid: &str| of(uid)["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!(
        (&ended("clear")["exitCode"], &of("clear")["status"]["podIP"]),
        (&json!(3), &json!("10.88.1.9"))
    );
    assert_eq!(ended("dark")["reason"], "ContainerStatusUnknown");
    assert_eq!(of("dark")["status"]["phase"], "Running", "nobody knows that it ended in order");
    let untold: Vec<String> = observed.untold.iter().map(ToString::to_string).collect();
    assert_eq!(untold.len(), 2, "{untold:?}");
    assert!(untold[0].contains("its task is in a state that nobody knows"), "{untold:?}");
}

#[tokio::test]
async fn a_pod_is_known_by_its_addresses_as_soon_as_it_has_them() {
    let mut fake = Fake::of(vec![sandbox("a", "a-1"), sandbox("h", "h-1")], Vec::new());
    fake.addresses.insert("a-1".into(), vec!["10.9.0.7".into(), "fd00::7".into()]);
    // In the network of the machine.
    fake.addresses.insert("h-1".into(), vec![String::new()]);
    let stub = Stub::new(fake);
    let addresses = Addresses::new(stub.runtime.clone());
    let has = async |ip: &str| addresses.has(ip.parse().unwrap()).await;
    assert_eq!([has("10.9.0.7").await, has("fd00::7").await], [Ok(true), Ok(true)]);
    assert_eq!(has("10.9.0.8").await, Ok(false), "a neighbour");
    {
        let mut fake = stub.fake.lock().unwrap();
        fake.sandboxes.push(sandbox("b", "b-1"));
        fake.addresses.insert("b-1".into(), vec!["10.9.0.8".into()]);
        fake.heard.clear();
    }
    assert_eq!(has("10.9.0.8").await, Ok(true), "a pod has it now");
    assert_eq!(
        stub.fake.lock().unwrap().heard,
        ["ListPodSandbox", "PodSandboxStatus"],
        "of the new one alone"
    );
    {
        let mut fake = stub.fake.lock().unwrap();
        fake.sandboxes.retain(|sandbox| sandbox.id == "h-1");
        fake.heard.clear();
    }
    let strangers = futures_util::future::join_all((1..50).map(|n| {
        let addresses = &addresses;
        async move { addresses.has(format!("10.9.1.{n}").parse().unwrap()).await }
    }));
    assert!(strangers.await.into_iter().all(|known| known == Ok(false)));
    let asked = stub.fake.lock().unwrap().heard.len();
    assert!(asked <= 2, "they wait for one answer together: {asked}");
    assert_eq!(has("10.9.0.7").await, Ok(false), "its pod has gone");
    stub.falls_silent();
    assert!(has("10.9.0.9").await.is_err_and(|why| why.contains("does not answer")));
}

#[tokio::test]
async fn a_container_tells_a_variable_that_it_was_made_with() {
    let mut fake = Fake::of(Vec::new(), ["a", "b"].map(|id| container("u", "s", id, id, RUNS)).into());
    let made = json!({"runtimeSpec": {"process": {"env": ["HOSTS=1", "HOST=10.96.0.1", "PASSWORD=x"]}}});
    fake.made.insert("a".into(), made.to_string());
    let stub = Stub::new(fake);
    assert_eq!(stub.runtime.variable("a", "HOST").await.unwrap().as_deref(), Some("10.96.0.1"));
    assert_eq!(stub.runtime.variable("a", "ABSENT").await.unwrap(), None);
    let untold = stub.runtime.variable("b", "HOST").await.unwrap_err().to_string();
    assert!(untold.contains("the environment"), "{untold}");
}
