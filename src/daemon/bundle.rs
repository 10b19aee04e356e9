//! What is asked of bundles and of the roots that they are believed by, done by whoever holds the state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::task::{Place, TaskError, blocking};
use crate::bundle::system::Asked;
use crate::bundle::{self, Audience, Gateway, PART_SIZE, Plan, Selection, keys};
use crate::health::Part;
use crate::oci::Platform;
use crate::store::{self, Store, TrustUpdate};
use crate::sys::clock;
use crate::sys::durable;
use crate::sys::progress::Progress;
use crate::trust::{Anchor, AnchorError, Chain, Enrolled, RoleName, Root, Verified, is_name, read_root_file};

/// One order. Paths are absolute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order")]
pub enum Order {
    /// Make a bundle.
    Create(Box<Create>),
    /// Say what a bundle holds.
    Inspect {
        /// The stick, or a bundle's folder.
        folder: PathBuf,
        /// A root to believe instead of the pinned one.
        #[serde(default)]
        root: Option<PathBuf>,
    },
    /// Check every byte of a bundle.
    Verify {
        /// The stick, or a bundle's folder.
        folder: PathBuf,
        /// A root to believe instead of the pinned one.
        root: Option<PathBuf>,
    },
    /// Import a bundle.
    Import {
        /// The stick, or a bundle's folder.
        folder: PathBuf,
    },
    /// Take a file out of a bundle.
    Extract {
        /// The stick, or a bundle's folder.
        folder: PathBuf,
        /// The file's name in the bundle.
        name: String,
        /// Where it goes: a file that is not there yet, or a folder that is.
        to: PathBuf,
        /// A root to believe instead of the pinned one.
        root: Option<PathBuf>,
    },
    /// Say what was imported.
    History {
        /// One stream, or all.
        stream: Option<String>,
    },
    /// Go back.
    Rollback {
        /// Which stream, where there are several.
        stream: Option<String>,
        /// To which generation; the one before if it is not said.
        to: Option<u64>,
    },
    /// Believe a root.
    Pin {
        /// `1.root.json`.
        file: PathBuf,
    },
    /// Say what is believed.
    Show,
    /// Believe a gateway's receipts.
    Enrol {
        /// One of them.
        receipt: PathBuf,
    },
}

/// What `edge bundle create` is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "they are the flags of the command")]
pub struct Create {
    pub stream: String,
    pub keys: PathBuf,
    pub passphrase_file: Option<PathBuf>,
    pub to: PathBuf,
    pub images: Vec<String>,
    pub charts: Vec<String>,
    pub files: Vec<bundle::Riding>,
    pub platforms: Vec<String>,
    pub receipts: Option<PathBuf>,
    pub full: bool,
    pub gateways: Vec<String>,
    pub fleets: Vec<String>,
    pub not_after: Option<Timestamp>,
    pub notes: String,
    #[serde(default)]
    pub system: Option<PathBuf>,
}

impl Order {
    /// The command that a person types for it.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Create(_) => "edge bundle create",
            Self::Inspect { .. } => "edge bundle inspect",
            Self::Verify { .. } => "edge bundle verify",
            Self::Import { .. } => "edge bundle import",
            Self::Extract { .. } => "edge bundle extract",
            Self::History { .. } => "edge bundle history",
            Self::Rollback { .. } => "edge bundle rollback",
            Self::Pin { .. } => "edge trust pin",
            Self::Show => "edge trust show",
            Self::Enrol { .. } => "edge trust enrol",
        }
    }
}

impl From<bundle::Error> for TaskError {
    fn from(error: bundle::Error) -> Self {
        let message = error.to_string();
        match (error.is_refusal(), error.is_usage()) {
            (true, _) => Self::refused(message),
            (_, true) => Self::usage(message),
            _ => Self::failed(message),
        }
    }
}

impl From<AnchorError> for TaskError {
    fn from(error: AnchorError) -> Self {
        bundle::Error::from(error).into()
    }
}

/// This gateway as its configuration and store are now.
///
/// # Errors
/// Where the store cannot be opened.
pub async fn gateway(place: &Place) -> Result<Gateway, TaskError> {
    let config = place.config();
    let store = place.store().await?;
    let appliance = super::appliance::here(&config);
    let gateway =
        Gateway { state_dir: config.state_dir.clone(), me: config.bundle.identity(), store, appliance };
    blocking(move || {
        gateway.recall()?;
        Ok(gateway)
    })
    .await
}

/// Does an order.
///
/// # Errors
/// [`TaskError`]; a refused bundle is 3.
pub async fn run(order: Order, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    let gateway = gateway(place).await?;
    let progress = progress.clone();
    blocking(move || perform(order, &gateway, &progress)).await
}

fn perform(order: Order, gateway: &Gateway, progress: &Progress) -> Result<Value, TaskError> {
    match order {
        Order::Create(create) => make(&create, gateway, progress),
        Order::Inspect { folder, root } => {
            let chain = root.map(|root| believed(&root)).transpose()?;
            let folder = chosen(&folder, chain.as_ref(), gateway, progress)?;
            value(gateway.inspect(&folder, chain)?)
        }
        Order::Verify { folder, root } => {
            let chain = root.map(|root| believed(&root)).transpose()?;
            let folder = chosen(&folder, chain.as_ref(), gateway, progress)?;
            value(gateway.verify(&folder, chain, progress)?)
        }
        Order::Import { folder } => {
            let folder = chosen(&folder, None, gateway, progress)?;
            let imported = gateway.import(&folder, Asked::ByHand, progress)?;
            let reboot =
                imported.staged.is_some() && gateway.appliance.as_ref().is_some_and(|one| one.is_eager());
            let mut done = value(imported)?;
            done["reboot"] = reboot.into();
            Ok(done)
        }
        Order::Extract { folder, name, to, root } => {
            let chain = root.map(|root| believed(&root)).transpose()?;
            let folder = chosen(&folder, chain.as_ref(), gateway, progress)?;
            value(gateway.extract(&folder, &name, &to, chain, progress)?)
        }
        Order::History { stream } => value(bundle::history(&gateway.store, stream.as_deref())?),
        Order::Rollback { stream, to } => value(gateway.roll_back(stream.as_deref(), to)?),
        Order::Pin { file } => pin(&file, gateway),
        Order::Show => show(gateway),
        Order::Enrol { receipt } => {
            let (name, key) = bundle::enrol(&receipt, &Enrolled::below(&gateway.state_dir))?;
            Ok(json!({"gateway": name, "key": key.id().as_str()}))
        }
    }
}

/// The folder of the bundle that is meant. Where another root is believed than the pinned one, nobody asks whom it is for.
fn chosen(
    place: &Path,
    chain: Option<&Chain>,
    gateway: &Gateway,
    progress: &Progress,
) -> Result<PathBuf, TaskError> {
    let found = bundle::find_one(place)?;
    if chain.is_some() {
        return Ok(found.newest().to_owned());
    }
    let bundle::Chosen { folder, left } = gateway.choose(&found);
    for line in left {
        progress.note(line);
    }
    Ok(folder)
}

fn value(of: impl Serialize) -> Result<Value, TaskError> {
    serde_json::to_value(of).map_err(TaskError::failed)
}

fn believed(root: &Path) -> Result<Chain, TaskError> {
    let bytes = read_root_file(root).map_err(TaskError::failed)?;
    Chain::begin(bytes, &root.display().to_string()).map_err(TaskError::refused)
}

/// Believes a root, where none is pinned yet, or the same one.
///
/// # Errors
/// [`TaskError`] where it is another one, or does not hold.
pub(super) fn pin(file: &Path, gateway: &Gateway) -> Result<Value, TaskError> {
    let bytes = read_root_file(file).map_err(TaskError::failed)?;
    let pinned = gateway.store.trust_value("root-version").map_err(TaskError::failed)?;
    let pinned = pinned.and_then(|version| u64::try_from(version).ok());
    let version = Anchor::below(&gateway.state_dir).pin(&bytes, &file.display().to_string(), pinned)?;
    let update = TrustUpdate { root_version: Some(version), ..TrustUpdate::default() };
    gateway.store.update_trust(update).map_err(TaskError::failed)?;
    gateway.note_seen()?;
    if let Some(appliance) = &gateway.appliance {
        appliance.keep_trust(&gateway.store)?;
    }
    show(gateway)
}

/// Believes the root that was packed into the snap, where none is pinned yet. What is pinned stays: a packed root is the
/// first of its line, and a gateway may have gone on from it, or have been given another by hand.
pub(super) async fn pin_shipped(place: Arc<Place>, root: PathBuf) {
    let pinned = async {
        let gateway = gateway(&place).await?;
        blocking(move || {
            if gateway.store.trust_value("root-version").map_err(TaskError::failed)?.is_some() {
                return Ok(false);
            }
            pin(&root, &gateway).map(|_| true)
        })
        .await
    };
    match pinned.await {
        Ok(true) => tracing::info!("the trust root that came with the snap is pinned"),
        Ok(false) => {}
        Err(error) => tracing::warn!(why = error.message, "the snap's trust root is not pinned"),
    }
}

fn show(gateway: &Gateway) -> Result<Value, TaskError> {
    let chain = match gateway.chain() {
        Ok(chain) => Some(chain),
        Err(bundle::Error::Trust(AnchorError::NotPinned)) => None,
        Err(error) => return Err(error.into()),
    };
    let enrolled = Enrolled::below(&gateway.state_dir).list()?;
    let gateways: Vec<Value> =
        enrolled.iter().map(|(name, key)| json!({"gateway": name, "key": key.id().as_str()})).collect();
    Ok(json!({
        "root": chain.as_ref().map(|chain| root(chain.current())),
        "gateways": gateways,
    }))
}

/// A root for people and programs.
pub fn root(root: &Verified<Root>) -> Value {
    let role = |name: RoleName| {
        let role = root.role(name);
        json!({"keys": role.keys, "threshold": role.threshold})
    };
    json!({
        "version": root.version,
        "created": root.created,
        "expires": root.expires,
        "root": role(RoleName::Root),
        "bundle": role(RoleName::Bundle),
    })
}

fn make(create: &Create, gateway: &Gateway, progress: &Progress) -> Result<Value, TaskError> {
    for (flag, names) in [("--for", &create.gateways), ("--fleet", &create.fleets)] {
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(TaskError::usage(format!(
                "`{flag} {name}` names nobody: no such name can be configured hint: a name has at most 63 lower-case \
                 letters, digits, `-` and `.`"
            )));
        }
    }
    if let Some(folder) = create.receipts.as_ref().filter(|folder| !create.full && !folder.is_dir()) {
        let why = "is no folder, and the bundle would be full hint: `--full` makes such a one";
        return Err(TaskError::usage(format!("`--receipts {}` {why}", folder.display())));
    }
    let passphrase = create.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let chain = keys::read_chain(&create.keys)?;
    let signers = keys::bundle_keys(&create.keys, &chain, passphrase.as_deref())?;
    let platforms: Result<Vec<Platform>, String> = create.platforms.iter().map(|text| text.parse()).collect();
    let receipts = receipts(create, gateway, progress)?;
    let plan = Plan {
        stream: create.stream.clone(),
        to: create.to.clone(),
        selection: Selection {
            images: create.images.clone(),
            charts: create.charts.clone(),
            files: create.files.clone(),
            platforms: platforms.map_err(TaskError::usage)?,
            system: create.system.clone(),
        },
        audience: Audience {
            gateways: create.gateways.clone(),
            fleets: create.fleets.clone(),
            platforms: create.platforms.clone(),
        },
        not_after: create.not_after,
        notes: create.notes.clone(),
        receipts,
        part_size: PART_SIZE,
        records: gateway.state_dir.join("bundle/made"),
        // Whole seconds: that is what people read, and what the time floor keeps.
        created: Timestamp::from_second(clock::now().as_second()).unwrap_or_default(),
    };
    value(bundle::create(&gateway.store, &chain, &signers, &plan, progress)?)
}

/// The receipts to build on: those of the gateways that it is for, if each of them gave one; else none. A bundle that names no
/// gateway is for every one that is enrolled, of whatever fleet: no receipt says that. `--receipts` asks for a delta for those
/// alone whose receipts lie there.
fn receipts(
    create: &Create,
    gateway: &Gateway,
    progress: &Progress,
) -> Result<Vec<bundle::Believed>, TaskError> {
    if create.full {
        return Ok(Vec::new());
    }
    let folder = create.receipts.clone().unwrap_or_else(|| create.to.join(bundle::RECEIPTS));
    let enrolled = Enrolled::below(&gateway.state_dir);
    let (mut believed, ignored) = bundle::read_receipts(&folder, &create.stream, &enrolled)?;
    for line in ignored {
        progress.note(line);
    }
    if create.gateways.is_empty() && (create.receipts.is_some() || believed.is_empty()) {
        return Ok(believed);
    }
    let (wanted, hint) = match create.gateways.is_empty() {
        false => (create.gateways.clone(), ""),
        true => {
            let enrolled = enrolled.list()?.into_iter().map(|(name, _)| name);
            (
                enrolled.collect(),
                " hint: `--for` names whom it is for; `--receipts DIR` builds on those that lie there",
            )
        }
    };
    believed.retain(|one| wanted.contains(&one.receipt.gateway));
    let without = wanted.iter().find(|name| !believed.iter().any(|one| one.receipt.gateway == **name));
    if let Some(name) = without {
        progress.note(format!("no receipt of gateway `{name}`: the bundle is full{hint}"));
        return Ok(Vec::new());
    }
    Ok(believed)
}

/// The first line of a file.
///
/// # Errors
/// Where it cannot be read, or is empty.
pub fn read_passphrase(path: &Path) -> Result<Vec<u8>, TaskError> {
    let text =
        std::fs::read_to_string(path).map_err(|e| TaskError::usage(durable::named(e, "read", path)))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(TaskError::usage(format!("`{}` holds no passphrase", path.display())));
    }
    Ok(line.as_bytes().to_vec())
}

/// Imports sticks that are plugged in, while `bundle.auto-import` says so, until `stop` holds true.
pub async fn watch_media(place: Arc<Place>, part: Part, stop: watch::Receiver<bool>) {
    let settings = || place.config().bundle.clone();
    let asked = || async {
        let held = place.begin("bundle.auto-import");
        Ok((gateway(&place).await.map_err(|e| e.message)?, held))
    };
    bundle::auto::run(settings, asked, part, stop).await;
}

/// The newest bundles as `edge status` shows them. Read from disk: nobody has the store open for this alone.
///
/// # Errors
/// Where the store cannot be read.
pub async fn report(place: &Place) -> Result<Vec<bundle::Newest>, TaskError> {
    let settings = store::Settings::below(&place.config().state_dir);
    let read = move || {
        let store = Store::open_for_reading(settings)?;
        store.map_or_else(|| Ok(Vec::new()), |store| bundle::newest(&store, clock::now()))
    };
    blocking(move || read().map_err(|error: bundle::Error| error.into())).await
}
