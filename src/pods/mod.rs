//! What an operator at the gateway needs when kubectl in the cloud cannot help: pods as they are at this
//! moment, shown as kubectl shows them, restarted, looked into, healed; and the images that they need kept.

pub mod get;
pub mod print;
