use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::json;

use super::*;
use crate::proxy::stand_in;
use crate::sys::durable;

/// A gateway of the snap that has joined a cloud, and what snapd was told.
struct Scene {
    folder: tempfile::TempDir,
    cloud: stand_in::Cloud,
    place: Place,
    part: Part,
    board: Board,
    asked: Asked,
}

impl Scene {
    /// Of a cloud that kubeadm made, which answers with what `code` says then.
    async fn new(code: Arc<AtomicU16>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let answers = move |_: http::request::Parts| {
            let dns = "clusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\n";
            let body = json!({"message": "no", "data": {"kubelet": dns}});
            Box::pin(std::future::ready(stand_in::json(code.load(Ordering::Relaxed), &body))) as _
        };
        let cloud = stand_in::Cloud::new(Arc::new(answers)).await;
        let config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
        let board = Board::default();
        let part = board.part("cluster-dns");
        let scene = Self { folder, cloud, place: Place::new(config), part, board, asked: Asked::default() };
        scene.snapctl("exit 0");
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn snapctl(&self, restart: &str) {
        let calls = self.at("calls").display().to_string();
        let text = format!(
            "#!/bin/sh\n[ $1 = services ] && printf 'Service Startup Current Notes\\nedge.kubelet enabled active -\\n' && exit\necho $@ >>{calls}\n{restart}\n"
        );
        durable::write(&self.at("snapctl"), text.as_bytes(), 0o755).unwrap();
        std::fs::set_permissions(self.at("snapctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn join(&self) {
        let kubeconfig = self.cloud.folder.path().join("cloud.kubeconfig");
        let record =
            Record::begin(self.folder.path(), "a", &kubeconfig, &self.at("kubelet"), &self.at("pki"));
        record.unwrap().write(self.folder.path()).unwrap();
    }

    async fn look(&mut self, is_online: bool) -> Result<(), TaskError> {
        let kubelet = Kubelet::Snap(Snapctl::new(&self.at("snapctl")));
        look(&self.place, &kubelet, &mut self.asked, is_online, &self.part).await
    }

    /// What snapd was told, how often the cloud was asked, and what is told of it.
    fn seen(&self) -> (usize, usize, String) {
        let calls = std::fs::read_to_string(self.at("calls")).unwrap_or_default();
        assert!(calls.lines().all(|call| call == "restart edge.kubelet"), "{calls}");
        let message = self.board.all().remove(0).message;
        (calls.lines().count(), self.cloud.dials.load(Ordering::Relaxed), message)
    }
}

const DNS: &str = "10.96.0.10 for cluster.local";

#[tokio::test]
async fn kubelet_is_told_once_the_cloud_has_named_its_dns() {
    let code = Arc::new(AtomicU16::new(200));
    let mut scene = Scene::new(code.clone()).await;
    scene.look(true).await.unwrap();
    assert_eq!(scene.seen(), (0, 0, String::new()), "no cloud was joined");
    scene.join();
    scene.look(false).await.unwrap();
    assert_eq!(scene.seen(), (0, 0, String::new()), "it does not answer");

    // snapd does not do it at once.
    scene.snapctl("echo busy >&2; exit 1");
    assert!(scene.look(true).await.unwrap_err().message.contains("busy"));
    scene.snapctl("exit 0");
    scene.look(true).await.unwrap();
    assert_eq!(scene.seen(), (2, 1, DNS.to_owned()));
    // It is not asked again and again, and what is known needs nobody.
    scene.look(true).await.unwrap();
    scene.asked = Asked::default();
    scene.look(false).await.unwrap();
    assert_eq!(scene.seen(), (2, 1, DNS.to_owned()));
    // After the next start it is, and kubelet has nothing to be told.
    scene.look(true).await.unwrap();
    assert_eq!(scene.seen(), (2, 2, DNS.to_owned()));

    // A cloud that says nothing of it takes nothing away.
    code.store(500, Ordering::Relaxed);
    scene.asked = Asked::default();
    scene.look(true).await.unwrap_err();
    assert!(ClusterDns::read(scene.folder.path()).unwrap().is_some());
    Record::clear(scene.folder.path()).unwrap();
    scene.look(true).await.unwrap();
    assert_eq!(scene.seen(), (2, 3, String::new()), "the cloud was left");
}
