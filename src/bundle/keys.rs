//! A depot's folder of keys: every root since the first, the keys that sign roots, the key that signs bundles.
//!
//! Root keys are needed for ceremonies only, and belong elsewhere afterwards; `create` needs the bundle key alone.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Error;
use crate::sys::durable;
use crate::trust::{
    Chain, Draft, KeyId, PublicKey, RoleName, Root, SecretKey, read_root_file, root_file_name, version_of,
};

/// The key that signs bundles.
pub const BUNDLE_KEY: &str = "bundle.key";

/// What `keygen` makes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Keys that sign roots.
    pub root_keys: u32,
    /// How many of them must.
    pub threshold: u32,
    /// When the root expires.
    pub expires: Option<Timestamp>,
    /// Now.
    pub created: Timestamp,
}

/// Makes a depot's keys in `folder`: `1.root.json`, `root-N.key`, `bundle.key`, and their public halves.
///
/// # Errors
/// Nothing is ever written over.
pub fn generate(folder: &Path, plan: &Plan, passphrase: Option<&[u8]>) -> Result<Vec<PathBuf>, Error> {
    if plan.threshold == 0 || plan.threshold > plan.root_keys || plan.root_keys > 64 {
        let why = format!("{} of {} root keys cannot sign", plan.threshold, plan.root_keys);
        return Err(Error::Usage(why));
    }
    let root_path = folder.join(root_file_name(1));
    if root_path.exists() {
        return Err(crate::trust::KeyError::Exists(root_path).into());
    }
    // A folder that is there may be others' as well: it stays as it is, and each key is closed by itself.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Error::Files(durable::named(e, "make folder", folder)))?;
    let mut made = Vec::new();
    let mut keep = |name: String| -> Result<SecretKey, Error> {
        let key = SecretKey::generate()?;
        let path = folder.join(format!("{name}.key"));
        key.write(&path, passphrase)?;
        let public = folder.join(format!("{name}.pub"));
        durable::write(&public, format!("{}\n", key.public().text()).as_bytes(), 0o644)
            .map_err(Error::Files)?;
        made.push(path);
        Ok(key)
    };
    let root: Vec<SecretKey> =
        (1..=plan.root_keys).map(|n| keep(format!("root-{n}"))).collect::<Result<_, _>>()?;
    let bundle = keep("bundle".into())?;
    let public: Vec<PublicKey> = root.iter().map(SecretKey::public).collect();
    let new = Root::new(1, plan.created, plan.expires, (&public, plan.threshold), (&[bundle.public()], 1))?;
    let mut draft = Draft::new(new);
    for key in &root {
        draft.envelope_mut().sign(key)?;
    }
    durable::write(&root_path, &draft.to_bytes(), 0o644).map_err(Error::Files)?;
    made.push(root_path);
    Ok(made)
}

/// The roots in `folder`, each checked against the one before it.
///
/// # Errors
/// [`Error`] where none is there, or one does not follow.
pub fn read_chain(folder: &Path) -> Result<Chain, Error> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::Files(durable::named(e, "list", folder)))?;
    let mut versions: Vec<u64> =
        entries.flatten().filter_map(|entry| version_of(entry.file_name().to_str()?)).collect();
    versions.sort_unstable();
    let mut found = versions.into_iter();
    let Some(first) = found.next() else {
        let why = format!(
            "`{}` has no root hint: `edge bundle keygen --out {}`",
            folder.display(),
            folder.display()
        );
        return Err(Error::Usage(why));
    };
    let read = |version: u64| {
        let path = folder.join(root_file_name(version));
        let bytes = read_root_file(&path).map_err(Error::Files)?;
        Ok::<_, Error>((bytes, path.display().to_string()))
    };
    let (bytes, what) = read(first)?;
    let mut chain = Chain::begin(bytes, &what)?;
    for version in found {
        let (bytes, what) = read(version)?;
        // The next version lies there during a ceremony; until enough have signed it, the one before counts.
        if chain.push(bytes, &what).is_err() {
            break;
        }
    }
    Ok(chain)
}

/// The keys in `folder` that may sign bundles under `chain`'s newest root.
///
/// # Errors
/// [`Error`] where there are too few.
pub fn bundle_keys(folder: &Path, chain: &Chain, passphrase: Option<&[u8]>) -> Result<Vec<SecretKey>, Error> {
    let wanted = chain.current().keys(RoleName::Bundle);
    let entries = std::fs::read_dir(folder).map_err(|e| Error::Files(durable::named(e, "list", folder)))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut keys: Vec<SecretKey> = Vec::new();
    // One that was dropped long ago may lie there with a passphrase that nobody knows any more.
    let mut closed = None;
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !(name.starts_with("bundle") && name.ends_with(".key")) {
            continue;
        }
        match SecretKey::read(&path, passphrase) {
            Ok(key) if wanted.contains_key(&key.public().id()) => keys.push(key),
            Ok(_) => {}
            Err(error) => {
                closed.get_or_insert(error);
            }
        }
    }
    let needed = chain.current().role(RoleName::Bundle).threshold as usize;
    if let Some(error) = closed.filter(|_| keys.len() < needed) {
        return Err(error.into());
    }
    if keys.len() < needed {
        let why = format!(
            "`{}` has {} of the {needed} bundle keys that root version {} wants hint: `bundle.key` belongs there",
            folder.display(),
            keys.len(),
            chain.current().version
        );
        return Err(Error::Usage(why));
    }
    Ok(keys)
}

/// What the next root shall have. Empty lists keep what is there.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// Public keys that sign roots from then on.
    pub add_root: Vec<PublicKey>,
    /// Root keys that no longer do, by the beginning of their names.
    pub drop_root: Vec<String>,
    /// Root keys that must sign.
    pub threshold: Option<u32>,
    /// Public keys that sign bundles from then on, in place of those before.
    pub bundle: Vec<PublicKey>,
    /// When it expires.
    pub expires: Option<Timestamp>,
}

/// The next root, which nobody has signed yet.
///
/// # Errors
/// [`Error::Usage`] for a key that is not there.
pub fn next_root(chain: &Chain, rotation: &Rotation, created: Timestamp) -> Result<Draft, Error> {
    let now = chain.current();
    let mut root = now.keys(RoleName::Root);
    for beginning in &rotation.drop_root {
        let dropped: Vec<KeyId> =
            root.keys().filter(|id| id.as_str().starts_with(beginning.as_str())).cloned().collect();
        let [one] = &dropped[..] else {
            return Err(Error::Usage(format!(
                "`{beginning}` names {} of the root keys, not one",
                dropped.len()
            )));
        };
        root.remove(one);
    }
    root.extend(rotation.add_root.iter().map(|key| (key.id(), key.clone())));
    let bundle: Vec<PublicKey> = match rotation.bundle.is_empty() {
        true => now.keys(RoleName::Bundle).into_values().collect(),
        false => rotation.bundle.clone(),
    };
    let root: Vec<PublicKey> = root.into_values().collect();
    let threshold = rotation.threshold.unwrap_or(now.role(RoleName::Root).threshold);
    if threshold == 0 || threshold as usize > root.len() {
        return Err(Error::Usage(format!(
            "{threshold} of {} root keys cannot sign hint: `--threshold` is from 1 to {}",
            root.len(),
            root.len()
        )));
    }
    let bundle_threshold = now.role(RoleName::Bundle).threshold.min(u32::try_from(bundle.len()).unwrap_or(1));
    if let Some(end) = now.expires.filter(|end| rotation.expires.is_none() && *end <= created) {
        return Err(Error::Usage(format!(
            "root version {} has expired at {end}, and the next one would have the same end hint: `--expires DATE`",
            now.version
        )));
    }
    let expires = rotation.expires.or(now.expires);
    let next = Root::new(now.version + 1, created, expires, (&root, threshold), (&bundle, bundle_threshold))?;
    Ok(Draft::new(next))
}

/// Reads a public key from a `.pub` file, or the text itself.
///
/// # Errors
/// [`Error::Usage`] where it is neither.
pub fn read_public(text: &str) -> Result<PublicKey, Error> {
    let content = std::fs::read_to_string(text).unwrap_or_else(|_| text.to_owned());
    PublicKey::parse(&content)
        .ok_or_else(|| Error::Usage(format!("`{text}` is no public key, nor a file with one")))
}
