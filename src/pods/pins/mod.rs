//! Images that cached pods need are never collected as garbage: which they are, and the label that
//! keeps them. Pins that others made are left alone, which is why edge marks its own.

mod apply;
mod crio;
mod keep;
mod mark;
mod needed;

pub use apply::{Report, apply, is_honoured};
pub use keep::{Places, free, keep};
pub use mark::Mark;
pub use needed::{Changes, Needed, OWN, needed, plan};
