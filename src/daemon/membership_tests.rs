use std::os::unix::fs::symlink;

use super::*;

/// A gateway's folder, its record of a join, and the kubeconfig that a join writes there.
struct Scene {
    folder: tempfile::TempDir,
    written: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("cloud.kubeconfig");
        Self { folder, written }
    }

    fn config(&self, kubeconfig: Option<&Path>) -> Config {
        let mut config = Config {
            file: self.folder.path().join("edge.toml"),
            state_dir: self.folder.path().to_owned(),
            ..Config::default()
        };
        config.cloud.kubeconfig = kubeconfig.map(Path::to_owned);
        config
    }

    fn write(&self, name: &str, text: &str) {
        durable::write(&self.folder.path().join(name), text.as_bytes(), 0o600).unwrap();
    }

    fn join(&self, kubeconfig: &Path) {
        let at = |name: &str| self.folder.path().join(name);
        let (state, kubelet) = (self.folder.path(), at("kubelet.kubeconfig"));
        Record::begin(state, "n", kubeconfig, &kubelet, &at("pki")).unwrap().write(state).unwrap();
    }

    /// What `given` comes to where `in_force` is, and whether something could not be looked at.
    fn followed(&self, given: Option<&Path>, in_force: Option<Option<&Path>>) -> (Option<PathBuf>, String) {
        let mut config = self.config(given);
        let in_force = in_force.map(|kubeconfig| self.config(kubeconfig));
        let why = follow(&mut config, in_force.as_ref());
        (config.cloud.kubeconfig, why.unwrap_or_default())
    }
}

#[test]
fn what_was_joined_or_left_stays_so_whatever_snapd_has() {
    let scene = Scene::new();
    let (written, own) = (scene.written.as_path(), Path::new("/own/kubeconfig"));
    let some = |path: &Path| (Some(path.to_owned()), String::new());
    let none = (None, String::new());
    // Nothing is joined.
    assert_eq!(scene.followed(None, None), none);
    assert_eq!(scene.followed(Some(own), Some(None)), some(own));
    // It was left, and the file says so.
    assert_eq!(scene.followed(Some(written), Some(None)), none);
    // There is no file yet, or it names that place as well: whoever set it is about to put something there.
    assert_eq!(scene.followed(Some(written), None), some(written));
    assert_eq!(scene.followed(Some(written), Some(Some(written))), some(written));
    // A join that was cut short before its files.
    scene.join(written);
    assert_eq!(scene.followed(None, Some(None)), none);
    scene.write("cloud.kubeconfig", "");
    assert_eq!(scene.followed(None, Some(None)), some(written));
    assert_eq!(scene.followed(None, None), some(written));
    assert_eq!(scene.followed(Some(own), Some(None)), some(own));
}

/// A disk that fails for a moment ends no membership.
#[test]
fn who_cannot_be_looked_at_stays_joined_and_it_is_told() {
    let scene = Scene::new();
    let written = scene.written.as_path();
    let stays = |given: Option<&Path>, in_force: Option<&Path>, words: &str| {
        let (path, why) = scene.followed(given, Some(in_force));
        assert_eq!(path.as_deref(), Some(written), "{why}");
        assert!(why.starts_with(words) && why.lines().count() == 1, "{why}");
    };
    // Root reads everything; this it cannot.
    let unseen = || symlink(written, written).unwrap();
    let path = "the cloud's kubeconfig is taken to be there: cannot look for `";
    unseen();
    stays(Some(written), None, path);
    std::fs::remove_file(written).unwrap();
    scene.join(written);
    unseen();
    stays(None, None, path);
    std::fs::remove_file(written).unwrap();
    scene.write("join.json", "half");
    let record = "whether this node has joined a cloud is not known, and `cloud.kubeconfig` stays as it is: ";
    stays(None, Some(written), record);
    stays(Some(written), Some(written), record);
    let (path, why) = scene.followed(None, Some(None));
    assert!(path.is_none() && why.starts_with(record), "{path:?} {why}");
}

/// No other command of a strict snap sees more than its daemon.
#[test]
fn what_a_strict_snap_does_not_see_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let place = |is_strict: bool| {
        Place::new(Config { is_strict, state_dir: folder.path().to_owned(), ..Config::default() })
    };
    let line = "cannot read `/opt/pki/node.pem`: No such file or directory (os error 2)";
    let told = |line: &str, is_strict: bool| confined(TaskError::usage(line), &place(is_strict)).message;
    assert_eq!(told(line, false), line);
    assert_eq!(
        told(line, true),
        format!(
            "{line} hint: the snap is strict and may not see it: give a kubeconfig that holds certificate and key inline"
        )
    );
    // The command line names the plug.
    let denied = "cannot read `/etc/kubernetes/kubelet.conf`: Permission denied (os error 13)";
    assert_eq!(told(denied, true), denied);
}
