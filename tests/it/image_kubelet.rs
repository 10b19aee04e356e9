//! The kubelet that is given to `edge-pack image`: not always the static one that `scripts/image` builds.

use anyhow::{Context, Result};

use crate::image::made;

/// Nothing of an image runs while it is made, so a gateway would be the first to miss what its kubelet is linked with.
#[test]
fn a_kubelet_that_needs_what_the_image_lacks_is_refused() -> Result<()> {
    let (workshop, image) = made();
    let lock = format!("{}.lock", image.display());
    let (out, kubelet) = (workshop.place.path("linked.img"), workshop.place.path("linked-kubelet"));
    // A program that would run there, but for the name of what it needs.
    let linked = std::fs::read("/bin/true")?;
    for (from, to, why) in [
        (&b"\0libc.so.6\0"[..], &b"\0libq.so.6\0"[..], "no package has the library `libq.so.6` hint: "),
        (
            &b"\0GLIBC_2.34\0"[..],
            &b"\0GLIBC_9.34\0"[..],
            "the image's library `libc.so.6` has no `GLIBC_9.34` hint: ",
        ),
    ] {
        let at = linked.windows(from.len()).position(|bytes| bytes == from).context("another program")?;
        std::fs::write(&kubelet, [&linked[..at], to, &linked[at + from.len()..]].concat())?;
        let more = ["--kubelet", &kubelet.display().to_string(), "--lock", &lock];
        let output = workshop.pack(&out, &more)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default();
        let begin = format!("--kubelet: `{}` would not run: {why}", kubelet.display());
        assert!(last.contains(&begin), "{last}");
    }
    assert!(!out.exists());
    Ok(())
}
