//! Sets and removes pins in containerd's image store.

use serde_json::Value;

use super::Mark;
use super::needed::{OWN, is_own, needed, plan};
use crate::cri::{Error, ImageStore, Named, PINNED};

/// What was done, and whether it has an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Names that were pinned.
    pub pinned: Vec<String>,
    /// Names that were given free.
    pub unpinned: Vec<String>,
    /// Why the mark is not as it should be, if it is not.
    pub unmarked: Option<String>,
}

/// Pins what `pods` need and gives free what edge had pinned and nobody needs any more. While anything is pinned, `mark` is
/// set; a disk that cannot be written keeps no image from being pinned.
///
/// # Errors
/// The runtime's; [`Error::Unimplemented`] where it is not containerd. What was done by then stays done.
pub async fn apply(store: &ImageStore, pods: &[Value], mark: &Mark) -> Result<Report, Error> {
    let images = store.list().await?;
    let changes = plan(&needed(pods), &images);
    let kept = images.iter().filter(|image| is_own(image)).count() > changes.unpin.len();
    let pins = kept || !changes.pin.is_empty();
    // Of an older edge's pins, too, which knew no mark.
    let marked = if pins { mark.set() } else { Ok(()) };
    let mut report = Report::default();
    for image in changes.pin {
        // Edge's own mark first: a pin without it would be taken for somebody else's, and stay for ever.
        if label(store, &image, OWN, Set::On).await? && label(store, &image, PINNED, Set::On).await? {
            tracing::info!(image = %image.name, "image pinned");
            report.pinned.push(image.name);
        }
    }
    for image in changes.unpin {
        if label(store, &image, PINNED, Set::Off).await? && label(store, &image, OWN, Set::Off).await? {
            tracing::info!(image = %image.name, "image no longer pinned");
            report.unpinned.push(image.name);
        }
    }
    let marked = if pins { marked } else { mark.clear() };
    report.unmarked = marked.err().map(|error| error.to_string());
    Ok(report)
}

/// Whether a containerd of this version, such as `1.7.24`, honours pins.
pub fn is_honoured(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '~', '-', '+']).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (1, 7)
}

#[derive(Clone, Copy)]
enum Set {
    On,
    Off,
}

/// Sets or removes a label; false if the image has gone meanwhile.
async fn label(store: &ImageStore, image: &Named, label: (&str, &str), set: Set) -> Result<bool, Error> {
    let value = match set {
        Set::On => label.1,
        Set::Off => "",
    };
    match store.set_label(image, label.0, value).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_honoured_from_1_7_on() {
        for (version, honoured) in [
            ("1.6.20~ds1", false),
            ("1.7.0", true),
            ("v1.7.24", true),
            ("2.0.0-rc.1", true),
            ("1.5", false),
            ("?", false),
        ] {
            assert_eq!(is_honoured(version), honoured, "{version}");
        }
    }
}
