//! What an operator at the gateway needs when kubectl in the cloud cannot help: pods as they are at this
//! moment, shown as kubectl shows them, restarted, looked into, healed; and the images that they need kept.

pub mod ahead;
pub mod describe;
pub mod event;
pub mod exec;
pub mod get;
pub mod heal;
pub mod logs;
pub mod networks;
pub mod observe;
pub mod pins;
pub mod policy;
pub mod print;
pub mod restart;
mod settings;
pub mod survival;
pub mod tend;
pub mod unled;
pub mod view;

pub use settings::Settings;
