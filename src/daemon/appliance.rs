//! The appliance as a bundle's import sees it: what `bundle` asks, answered by `system`. Neither knows the other.

use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::system::{Appliance, Asked, Origin, Piece, Staging, SystemFile, SystemPart, Verdict};
use crate::bundle::{Error, Fault};
use crate::config::Config;
use crate::store::Store;
use crate::system::{self, Image, Kept, Part, Places, Stage, VerityId};

/// The appliance that this machine is, if it is one.
pub fn here(config: &Config) -> Option<Arc<dyn Appliance>> {
    let places = Places::below(&config.system.root);
    places.booted().is_ok().then(|| {
        Arc::new(Slots {
            places,
            state_dir: config.state_dir.clone(),
            is_eager: config.system.reboot_after_import,
            stream: config.system.stream.clone(),
        }) as Arc<dyn Appliance>
    })
}

#[derive(Debug)]
struct Slots {
    places: Places,
    state_dir: PathBuf,
    is_eager: bool,
    stream: Option<String>,
}

impl Appliance for Slots {
    fn judge(&self, part: &SystemPart, origin: Origin<'_>) -> Result<Verdict, Error> {
        let again = match origin.asked {
            Asked::ByHand => system::Again::UnlessGood,
            Asked::ByStick => system::Again::Never,
        };
        let judged = system::judge_image(&self.places, &image(part, origin)?, again, self.stream.as_deref());
        let judged = judged.map_err(|e| not_now(e, origin.asked))?;
        Ok(judged.map_or(Verdict::Stage, Verdict::Leave))
    }

    fn stage(&self, part: &SystemPart, origin: Origin<'_>) -> Result<Box<dyn Staging + '_>, Error> {
        let begun = Stage::begin(&self.places, image(part, origin)?);
        Ok(Box::new(Staged(begun.map_err(|e| not_now(e, origin.asked))?)))
    }

    fn keep_trust(&self, store: &Store) -> Result<(), Error> {
        let kept = Kept::of(store, &self.state_dir).and_then(|kept| kept.write(&self.places));
        let kept = kept.and_then(|()| system::keep_own_key(&self.places, &self.state_dir));
        kept.map_err(|e| Error::System(format!("the trust state is in force, and not kept on identity: {e}")))
    }

    fn is_eager(&self) -> bool {
        self.is_eager
    }

    fn start_staged(&self) -> Result<(), Error> {
        system::reboot().map_err(told)
    }
}

struct Staged<'a>(Stage<'a>);

impl Staging for Staged<'_> {
    fn begin(&mut self, piece: Piece) -> Result<(), Error> {
        let part = match piece {
            Piece::Root => Part::Root,
            Piece::Verity => Part::Verity,
            Piece::Kernel => Part::Kernel,
        };
        self.0.open(part).map_err(told)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.write(bytes).map_err(told)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.0.close().map_err(told)
    }

    fn commit(self: Box<Self>) -> Result<String, Error> {
        let (version, when) = (self.0.image().version.clone(), self.0.when());
        let slot = self.0.commit().map_err(told)?;
        Ok(format!("system {version} is staged in slot {slot}; {when}"))
    }
}

fn image(part: &SystemPart, origin: Origin<'_>) -> Result<Image, Error> {
    let id = VerityId::parse(&part.verity_uuid);
    let verity = id.ok_or_else(|| Fault::System("a system whose hash tree has no proper id".into()))?;
    let sum = |file: &SystemFile| (file.digest.clone(), file.size);
    Ok(Image {
        version: part.version.clone(),
        arch: part.arch.clone(),
        board: part.board.clone(),
        verity,
        root: sum(&part.files.root),
        tree: sum(&part.files.verity),
        kernel: sum(&part.files.kernel),
        stream: origin.stream.to_owned(),
        seq: origin.seq,
        manifest: origin.manifest.clone(),
    })
}

/// Beside what else can be wrong, one thing passes by itself.
fn not_now(error: system::Error, asked: Asked) -> Error {
    match error {
        error @ system::Error::OnlyGood { .. } => Error::SystemEarly { why: error.to_string(), asked },
        error => told(error),
    }
}

/// A system for another machine is a reason to refuse the bundle; everything else is this machine's.
fn told(error: system::Error) -> Error {
    match error {
        system::Error::OtherMachine(why) => Fault::System(why).into(),
        error => Error::System(error.to_string()),
    }
}
