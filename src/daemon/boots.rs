//! What starts an appliance, looked at once this boot was found good and then each day, each hour where something is damaged: rot
//! there would be found by the boot that does not come. Other machines have nothing to look at.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::task::{Place, TaskError, blocking};
use crate::health::{Board, Part};
use crate::system::{self, Loader, Looked, Places};

/// How often it is asked whether this boot was found good.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The same where there is trouble: somebody mends it, and wants to see that.
const HOUR: Duration = Duration::from_secs(3600);

/// Runs until told to stop.
pub(super) async fn keep(place: Arc<Place>, board: Board, mut stopped: watch::Receiver<bool>) {
    let places = Places::below(&place.config().system.root);
    if Loader::of(&places).is_err() {
        return;
    }
    let part = board.part("boot");
    part.good();
    loop {
        let wait = tell(&part, look(&places).await);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.changed() => return,
        }
    }
}

async fn look(places: &Places) -> Result<Option<Looked>, TaskError> {
    let places = places.clone();
    blocking(move || system::mend_boot(&places).map_err(TaskError::failed)).await
}

/// Tells what was found; when to look again.
fn tell(part: &Part, looked: Result<Option<Looked>, TaskError>) -> Duration {
    let looked = match looked {
        Ok(Some(looked)) => looked,
        Ok(None) => return SOON,
        Err(error) => {
            part.trouble(format!("what starts this machine cannot be looked at: {}", error.message));
            return HOUR;
        }
    };
    for line in &looked.mended {
        tracing::warn!("{line}");
    }
    let unread =
        looked.unread.iter().map(|what| format!("what starts this machine cannot be looked at: {what}"));
    let whats: Vec<_> = looked.damaged.iter().map(|damage| damage.what.clone()).chain(unread).collect();
    match whats.is_empty() {
        true => {
            part.good_with(looked.mended.join("; "));
            DAY
        }
        false => {
            part.trouble(whats.join("; "));
            HOUR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Damage;

    #[test]
    fn what_is_damaged_is_looked_at_again_within_the_hour() {
        let board = Board::default();
        let part = board.part("boot");
        let damaged = vec![Damage { slot: None, what: "`autoboot.txt`".into() }];
        let looked = |damaged| Ok(Some(Looked { damaged, ..Looked::default() }));
        assert_eq!(tell(&part, looked(damaged)), HOUR);
        let unread = Looked { unread: vec!["cannot read".into()], ..Looked::default() };
        assert_eq!(tell(&part, Ok(Some(unread))), HOUR);
        assert_eq!(tell(&part, Err(TaskError::failed("no card"))), HOUR);
        assert_eq!(tell(&part, looked(Vec::new())), DAY);
        assert_eq!(tell(&part, Ok(None)), SOON);
    }
}
