//! CRI's RuntimeService and ImageService, as far as edge asks them. It starts nothing: that is the kubelet's.

use std::collections::HashMap;
use std::time::Duration;

use tonic::transport::Channel;

use super::connect::{Connection, LARGEST_ANSWER};
use super::generated::runtime as v1;
use super::generated::runtime::image_service_client::ImageServiceClient;
use super::generated::runtime::runtime_service_client::RuntimeServiceClient;
use super::{Error, Settings};

/// Removing images and sandboxes and pulling is work on disk or network: it may take this much longer.
const WORK: Duration = Duration::from_secs(120);

/// The container runtime. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Runtime {
    connection: Connection,
}

/// What the runtime holds at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// All sandboxes, also those that have stopped.
    pub sandboxes: Vec<v1::PodSandbox>,
    /// All containers, also those that have exited.
    pub containers: Vec<v1::Container>,
}

/// The conditions of a runtime, each with why it does not hold.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Whether it runs containers.
    pub runtime: Result<(), String>,
    /// Whether pods get a network.
    pub network: Result<(), String>,
}

/// What containerd and CRI-O tell of a container beyond its state.
#[derive(serde::Deserialize)]
struct Made {
    #[serde(rename = "runtimeSpec")]
    spec: Spec,
}

/// The part of an OCI runtime specification that is asked for.
#[derive(serde::Deserialize)]
struct Spec {
    process: Process,
}

#[derive(serde::Deserialize)]
struct Process {
    #[serde(default)]
    env: Vec<String>,
}

impl Runtime {
    /// A runtime at `settings.endpoint`; nothing is dialled yet.
    ///
    /// # Errors
    /// [`Error::Endpoint`].
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self { connection: Connection::new(settings)? })
    }

    /// As configured, for messages.
    pub fn endpoint(&self) -> &str {
        &self.connection.endpoint
    }

    /// The runtime's name and version.
    ///
    /// # Errors
    /// The call's.
    pub async fn version(&self) -> Result<v1::VersionResponse, Error> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        self.connection.call("Version", Duration::ZERO, self.runtime().version(request)).await
    }

    /// The process id of who listens at its socket: the runtime, or systemd where that opened the socket. `None` where the
    /// kernel knows none.
    ///
    /// # Errors
    /// Nobody listens, or it may not be asked.
    pub async fn listener(&self) -> std::io::Result<Option<i32>> {
        self.connection.listener().await
    }

    /// Whether it can run pods.
    ///
    /// # Errors
    /// The call's.
    pub async fn readiness(&self) -> Result<Readiness, Error> {
        let request = v1::StatusRequest { verbose: false };
        let answer = self.connection.call("Status", Duration::ZERO, self.runtime().status(request)).await?;
        let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
        let holds = |wanted: &str| match conditions.iter().find(|condition| condition.r#type == wanted) {
            Some(condition) if condition.status => Ok(()),
            Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
            None => Err(format!("it does not say `{wanted}`")),
        };
        Ok(Readiness { runtime: holds("RuntimeReady"), network: holds("NetworkReady") })
    }

    /// Every sandbox and container.
    ///
    /// # Errors
    /// The call's.
    pub async fn state(&self) -> Result<State, Error> {
        let (mut of_sandboxes, mut of_containers) = (self.runtime(), self.runtime());
        let sandboxes = of_sandboxes.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let containers = of_containers.list_containers(v1::ListContainersRequest::default());
        let (sandboxes, containers) = tokio::join!(
            self.connection.call("ListPodSandbox", Duration::ZERO, sandboxes),
            self.connection.call("ListContainers", Duration::ZERO, containers),
        );
        Ok(State { sandboxes: sandboxes?.items, containers: containers?.containers })
    }

    /// The ids of the sandboxes that are ready: of those that have their network.
    ///
    /// # Errors
    /// The call's.
    pub async fn ready_sandboxes(&self) -> Result<Vec<String>, Error> {
        let state = v1::PodSandboxState::SandboxReady.into();
        let ready = v1::PodSandboxFilter {
            state: Some(v1::PodSandboxStateValue { state }),
            ..v1::PodSandboxFilter::default()
        };
        let request = v1::ListPodSandboxRequest { filter: Some(ready) };
        let mut runtime = self.runtime();
        let answer = runtime.list_pod_sandbox(request);
        let listed = self.connection.call("ListPodSandbox", Duration::ZERO, answer).await?;
        Ok(listed.items.into_iter().map(|sandbox| sandbox.id).collect())
    }

    /// The state of one container.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the call's.
    pub async fn container(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        const CALL: &str = "ContainerStatus";
        let answer = self.container_status(CALL, id, false).await?;
        answer.status.ok_or(Error::Lacks { call: CALL, what: "the status" })
    }

    /// A variable of the environment that a container was made with; `None` if it has no such one. Of the others, which may
    /// be secret, nothing is kept.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Lacks`] where the runtime does not tell with what it made it, or the call's.
    pub async fn variable(&self, id: &str, name: &str) -> Result<Option<String>, Error> {
        const CALL: &str = "ContainerStatus";
        let answer = self.container_status(CALL, id, true).await?;
        let info = answer.info.get("info").and_then(|info| serde_json::from_str(info).ok());
        let made: Made = info.ok_or(Error::Lacks { call: CALL, what: "the environment" })?;
        let value = |one: &String| Some(one.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        Ok(made.spec.process.env.iter().find_map(value))
    }

    async fn container_status(
        &self,
        call: &'static str,
        id: &str,
        verbose: bool,
    ) -> Result<v1::ContainerStatusResponse, Error> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose };
        self.connection.call(call, Duration::ZERO, self.runtime().container_status(request)).await
    }

    /// The state of one sandbox, with the addresses that it has.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the call's.
    pub async fn sandbox(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        Ok(self.sandbox_status(id, false).await?.0)
    }

    /// What the runtime tells of a sandbox beyond its state: in containerd's, `info` is JSON with the process id and
    /// the network namespace.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the call's.
    pub async fn sandbox_info(&self, id: &str) -> Result<HashMap<String, String>, Error> {
        Ok(self.sandbox_status(id, true).await?.1)
    }

    async fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<(v1::PodSandboxStatus, HashMap<String, String>), Error> {
        const CALL: &str = "PodSandboxStatus";
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose };
        let answer =
            self.connection.call(CALL, Duration::ZERO, self.runtime().pod_sandbox_status(request)).await?;
        Ok((answer.status.ok_or(Error::Lacks { call: CALL, what: "the status" })?, answer.info))
    }

    /// Stops a container: its stop signal, then SIGKILL after `grace`. Returns when it has stopped.
    ///
    /// # Errors
    /// The call's.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let extra = grace + WORK;
        self.connection.call("StopContainer", extra, self.runtime().stop_container(request)).await?;
        Ok(())
    }

    /// Removes a container that has exited.
    ///
    /// # Errors
    /// The call's.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.connection.call("RemoveContainer", WORK, self.runtime().remove_container(request)).await?;
        Ok(())
    }

    /// Stops what still runs in a sandbox, at once, and takes its network down.
    ///
    /// # Errors
    /// The call's.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.connection.call("StopPodSandbox", WORK, self.runtime().stop_pod_sandbox(request)).await?;
        Ok(())
    }

    /// Removes a stopped sandbox with its containers.
    ///
    /// # Errors
    /// The call's.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.connection.call("RemovePodSandbox", WORK, self.runtime().remove_pod_sandbox(request)).await?;
        Ok(())
    }

    /// Prepares a command in a container; the URL of the streaming server where it is to be run, once.
    ///
    /// # Errors
    /// The call's.
    pub async fn exec(&self, request: v1::ExecRequest) -> Result<String, Error> {
        Ok(self.connection.call("Exec", Duration::ZERO, self.runtime().exec(request)).await?.url)
    }

    /// Every image the runtime has.
    ///
    /// # Errors
    /// The call's.
    pub async fn images(&self) -> Result<Vec<v1::Image>, Error> {
        let request = v1::ListImagesRequest::default();
        Ok(self
            .connection
            .call("ListImages", Duration::ZERO, self.image_service().list_images(request))
            .await?
            .images)
    }

    /// The image that `reference` resolves to in the runtime, if it has it.
    ///
    /// # Errors
    /// The call's.
    pub async fn image(&self, reference: &str) -> Result<Option<v1::Image>, Error> {
        let request = v1::ImageStatusRequest { image: Some(spec(reference)), verbose: false };
        let answer = self
            .connection
            .call("ImageStatus", Duration::ZERO, self.image_service().image_status(request))
            .await?;
        Ok(answer.image)
    }

    /// Pulls an image without credentials, as the kubelet would; the reference it is known by then.
    ///
    /// # Errors
    /// The call's.
    pub async fn pull(&self, reference: &str) -> Result<String, Error> {
        let request = v1::PullImageRequest { image: Some(spec(reference)), auth: None, sandbox_config: None };
        let answer =
            self.connection.call("PullImage", 5 * WORK, self.image_service().pull_image(request)).await?;
        Ok(answer.image_ref)
    }

    /// Removes an image. One that is not there is no error.
    ///
    /// # Errors
    /// The call's.
    pub async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        let request = v1::RemoveImageRequest { image: Some(spec(reference)) };
        self.connection.call("RemoveImage", WORK, self.image_service().remove_image(request)).await?;
        Ok(())
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.connection.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.connection.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }
}

fn spec(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: reference.to_owned(), ..v1::ImageSpec::default() }
}
