//! A stick with a good bundle, and ways to spoil it: on the stick alone, or signed anew as a stolen bundle key would.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::bundle::{Manifest, PAYLOAD_TYPE, Plan, keys};
use edge::sys::digest::Digest;
use edge::trust::{Draft, Envelope, PublicKey, RoleName, SecretKey};
use serde_json::Value;

use crate::bundle::{Scene, THEN, at, put_image};

/// A stick with a good bundle, ready to be spoilt.
pub struct Attack {
    pub scene: Scene,
    pub folder: PathBuf,
}

impl Attack {
    pub fn new() -> Self {
        let scene = Scene::new();
        put_image(&scene.depot, "q.io/app", Some("1"), &[b'x'; 700], "arm64");
        put_image(&scene.depot, "q.io/other", Some("1"), b"another", "arm64");
        let folder = scene.create(&Plan { part_size: 512, ..scene.plan() }).unwrap().folder;
        Self { scene, folder }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.join(below)
    }

    pub fn key(&self, name: &str) -> SecretKey {
        SecretKey::read(&self.scene.path(&format!("keys/{name}.key")), None).unwrap()
    }

    pub fn manifest(&self) -> Manifest {
        let envelope: Value = serde_json::from_slice(&fs::read(self.path("manifest.dsse")).unwrap()).unwrap();
        let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    }

    /// Signs a payload as a bundle's manifest, with the real bundle key.
    pub fn sign(&self, payload: &[u8]) {
        self.sign_with(payload, PAYLOAD_TYPE, &[&self.key("bundle")]);
    }

    pub fn sign_with(&self, payload: &[u8], kind: &str, keys: &[&SecretKey]) {
        let mut envelope = Envelope::unsigned(kind, payload);
        for key in keys {
            envelope.sign(key).unwrap();
        }
        fs::write(self.path("manifest.dsse"), envelope.to_bytes()).unwrap();
    }

    /// Changes the manifest, and signs it as a stolen key would.
    pub fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        self.sign(&serde_json::to_vec(&manifest).unwrap());
    }

    /// Replaces a list, and signs its new digest.
    pub fn forge_list(&self, file: &str, change: impl FnOnce(String) -> String) {
        let text = change(fs::read_to_string(self.path(file)).unwrap());
        fs::write(self.path(file), &text).unwrap();
        self.forge(|manifest| {
            let list = if file == "blobs.list" { &mut manifest.blobs } else { &mut manifest.refs };
            (list.digest, list.size) = (Digest::sha256(text.as_bytes()), text.len() as u64);
            list.lines = text.matches('\n').count() as u64;
            manifest.snapshot = manifest.refs.digest.clone();
        });
    }

    pub fn edit_envelope(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("manifest.dsse");
        let mut envelope: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut envelope);
        fs::write(path, envelope.to_string()).unwrap();
    }

    /// The file of some blob, one of one part.
    pub fn blob(&self) -> PathBuf {
        let folder = self.path("blobs/sha256");
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
        files.retain(|path| path.extension().is_none());
        files.sort();
        files.pop().unwrap()
    }

    /// The part of a blob that lies in two.
    pub fn part(&self) -> PathBuf {
        let folder = self.path("blobs/sha256");
        let mut files = fs::read_dir(folder).unwrap().flatten().map(|e| e.path());
        files.find(|path| path.extension().is_some_and(|e| e == "p0001")).unwrap()
    }

    /// A root that follows the first one, with these bundle keys, signed by these root keys.
    pub fn root(&self, version: u64, bundle: &[PublicKey], signers: &[&str]) {
        self.root_that_needs(1, version, bundle, signers);
    }

    /// The same, where a bundle needs as many of its keys.
    pub fn root_that_needs(&self, threshold: u32, version: u64, bundle: &[PublicKey], signers: &[&str]) {
        let chain = keys::read_chain(&self.scene.path("keys")).unwrap();
        let root: Vec<PublicKey> = chain.current().keys(RoleName::Root).into_values().collect();
        let new = edge::trust::Root::new(version, at(THEN), None, (&root, 2), (bundle, threshold)).unwrap();
        let mut draft = Draft::new(new);
        for name in signers {
            draft.envelope_mut().sign(&self.key(name)).unwrap();
        }
        fs::write(self.path(&format!("trust/{version}.root.json")), draft.to_bytes()).unwrap();
    }
}

/// Changes the first byte of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}
