//! Sticks that are plugged in: what is taken from them without anybody asking, and what is tried again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use edge::bundle::{Gateway, Settings, auto};
use edge::health::{Board, State};
use edge::sys::mounts::mounts;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, OpenFlags, ReplyAttr, ReplyOpen, Request,
};

use crate::bundle::{Scene, put_image};
use crate::bundle_disk::{Mounted, run};

/// Takes what is on a folder as if it were the top of a stick that somebody has mounted.
pub fn take(gateway: &Gateway, stick: &Path) -> auto::Outcome {
    let at = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(stick, at.path(), "bind");
    take_at(gateway, &mounted.0)
}

/// Takes what is mounted there.
fn take_at(gateway: &Gateway, at: &Path) -> auto::Outcome {
    let mount = mounts().unwrap().into_iter().find(|mount| mount.at == at).unwrap();
    auto::take(gateway, &auto::Place::Mounted(mount.bare())).unwrap()
}

fn ready() -> Scene {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    scene.make();
    scene
}

#[test]
fn what_is_wrong_here_and_not_with_the_bundle_may_pass() {
    let scene = ready();
    // A file where the folder for lists should be.
    std::fs::write(scene.path("gateway/bundle"), "").unwrap();
    let outcome = take(&scene.gateway, &scene.stick());
    assert!(matches!(&outcome, auto::Outcome::Failed(why) if why.starts_with("main-1: ")), "{outcome:?}");
    std::fs::remove_file(scene.path("gateway/bundle")).unwrap();
    let outcome = take(&scene.gateway, &scene.stick());
    assert!(matches!(&outcome, auto::Outcome::Imported(_)), "{outcome:?}");
    // What is not as it was signed stays so.
    scene.make();
    std::fs::write(scene.stick().join("edge-bundle/main-2/refs.list"), "x").unwrap();
    let outcome = take(&scene.gateway, &scene.stick());
    assert!(matches!(&outcome, auto::Outcome::Refused(why) if why.contains("refs.list")), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stick_that_stays_in_is_tried_again_after_what_passed() {
    let scene = ready();
    let media = scene.path("media");
    let _mounted = Mounted::new(&scene.stick(), &media.join("stick"), "bind");
    let settings = || Settings { auto_import: true, media_dirs: vec![media.clone()], ..Settings::default() };
    let (asked, state_dir, store) =
        (AtomicU32::new(0), scene.gateway.state_dir.clone(), scene.gateway.store.clone());
    // Asked first whether a root is pinned; then for the stick, and is busy that once.
    let gateway = || {
        let (count, state_dir, store) =
            (asked.fetch_add(1, Ordering::SeqCst), state_dir.clone(), store.clone());
        async move {
            match count {
                1 => Err("the store is busy".to_owned()),
                _ => Ok((Gateway { state_dir, me: Default::default(), store, appliance: None }, ())),
            }
        }
    };
    let (board, (_stop, stopped)) = (Board::default(), tokio::sync::watch::channel(false));
    let taken = async {
        let health = || board.all().pop().map(|health| (health.state, health.message));
        while !health().is_some_and(|(state, line)| state == State::Trouble && line == "the store is busy") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !health()
            .is_some_and(|(state, line)| state == State::Good && line.contains("main-1 is in force"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = auto::run(settings, gateway, board.part("bundle"), stopped) => unreachable!("nobody stopped it"),
        () = taken => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("not tried again: {:?}", board.all()),
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "tried once more, and settled");
}

/// A device that this process may not open, root as it is: as AppArmor has it in a strict snap.
#[test]
fn a_device_that_may_not_be_opened_is_no_trouble() {
    let scene = ready();
    let folder = scene.path("devices");
    std::fs::create_dir(&folder).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "nodev", "none", &folder.display().to_string()]);
    let _mounted = Mounted(folder.clone());
    let device = folder.join("sdx1");
    run("mknod", &[&device.display().to_string(), "b", "7", "250"]);
    let outcome = auto::take(&scene.gateway, &auto::Place::Device(device, "1".into())).unwrap();
    assert!(
        matches!(&outcome, auto::Outcome::Closed(why) if why.contains("sdx1`: Permission denied")),
        "{outcome:?}"
    );
    let gone = auto::Place::Device(PathBuf::from("/dev/no-such-stick"), "1".into());
    assert!(auto::take(&scene.gateway, &gone).is_err(), "anything else is trouble");
}

/// A folder that is there and cannot be opened, as a file system with a damaged sector has one.
struct Broken;

impl Filesystem for Broken {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attributes);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::EIO);
    }
}

#[test]
fn a_folder_that_cannot_be_opened_costs_no_other_stream() {
    let scene = ready();
    let _stick = Mounted::new(&scene.stick(), &scene.stick(), "bind");
    let broken = scene.stick().join("edge-bundle/broken-1");
    std::fs::create_dir(&broken).unwrap();
    let _server = fuser::spawn_mount(Broken, &broken, &fuser::Config::default()).unwrap();
    let outcome = take_at(&scene.gateway, &scene.stick());
    let auto::Outcome::Failed(said) = &outcome else { panic!("{outcome:?}") };
    assert!(said.contains("main-1 is in force") && said.contains("broken-1: "), "{said}");
    assert!(scene.gateway.store.manifest("q.io/app", "1").unwrap().is_some());
}

/// A stick for somebody else, until this gateway is told that it is that one; and one that is pulled.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_goes_with_its_reason_and_with_its_stick() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    let mut plan = scene.plan();
    plan.audience.gateways = vec!["ship-7".into()];
    scene.create(&plan).unwrap();
    let media = scene.path("media");
    let mut mounted = Some(Mounted::new(&scene.stick(), &media.join("stick"), "bind"));
    let name = std::sync::Mutex::new(None::<String>);
    let settings = || Settings {
        auto_import: true,
        media_dirs: vec![media.clone()],
        gateway: name.lock().unwrap().clone(),
        ..Settings::default()
    };
    let (state_dir, store) = (scene.gateway.state_dir.clone(), scene.gateway.store.clone());
    let gateway = || {
        let (state_dir, store, me) = (state_dir.clone(), store.clone(), settings().identity());
        async move { Ok((Gateway { state_dir, me, store, appliance: None }, ())) }
    };
    let (board, (_stop, stopped)) = (Board::default(), tokio::sync::watch::channel(false));
    let is = |state: State, said: &str| {
        let found = board.all().pop();
        found.is_some_and(|health| health.state == state && health.message.contains(said))
    };
    let until = async |state: State, said: &str| {
        while !is(state, said) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let taken = async {
        until(State::Trouble, "and this is a gateway without a name").await;
        drop(mounted.take());
        until(State::Good, "and this is a gateway without a name hint").await;
        assert!(board.all().pop().unwrap().message.ends_with("; it was pulled"), "{:?}", board.all());
        mounted = Some(Mounted::new(&scene.stick(), &media.join("stick"), "bind"));
        until(State::Trouble, "and this is a gateway without a name").await;
        *name.lock().unwrap() = Some("ship-7".into());
        // Somebody mounts something else: all that is in is looked at.
        drop(Mounted::new(&scene.path("depot"), &scene.path("other"), "bind"));
        until(State::Good, "main-1 is in force").await;
    };
    tokio::select! {
        () = auto::run(settings, gateway, board.part("bundle"), stopped) => unreachable!("nobody stopped it"),
        () = taken => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("not looked at again: {:?}", board.all()),
    }
}
