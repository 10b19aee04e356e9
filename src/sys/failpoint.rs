//! Named places around every sync and rename, where a test ends the process as a power cut would.
//!
//! Costs one atomic load where nothing is armed. Only tests arm it.

use std::sync::OnceLock;

static HOOK: OnceLock<Box<dyn Fn(&'static str) + Send + Sync>> = OnceLock::new();

/// Has `hook` called with the name of each place that is passed from now on. The first caller wins.
pub fn arm(hook: impl Fn(&'static str) + Send + Sync + 'static) {
    // A second arming is a mistake of a test, which sees that its own hook is not called.
    let _ = HOOK.set(Box::new(hook));
}

/// Marks a place.
pub fn pass(place: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook(place);
    }
}
