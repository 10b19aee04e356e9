//! Restarting pods through the runtime: the containers are stopped, and the kubelet starts them again. What would not
//! come back is not stopped.

mod plan;
mod run;
mod turn;

pub use plan::{Known, Part, Plan, Refusal, Request, Target, plan};
pub use run::{Outcome, Restarted, carry_out, is_another, short, wait};
pub use turn::{Turn, at_work};
