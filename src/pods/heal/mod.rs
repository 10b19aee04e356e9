//! Self-heal: a pod that fails again and again, or whose shared context is broken, is restarted; first its
//! containers, then the whole of it, with back-off and an end. Off unless asked for. Decisions are pure; who runs
//! them keeps a [`Memory`] for each pod, on disk.

mod decide;
mod settings;
mod symptoms;

pub use decide::{Decision, Memory, Part, acted, booted, decide, give_up, heals, resumed};
pub use settings::{ENABLED, MOST_FAILURES, Settings};
pub use symptoms::{Broken, Symptoms, symptoms};
