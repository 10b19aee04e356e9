//! Restarting pods through the runtime: the containers are stopped, and the kubelet starts them again. What would not
//! come back is not stopped.

mod plan;
mod run;

pub use plan::{Part, Plan, Refusal, Request, Target, plan};
pub use run::{Outcome, Restarted, carry_out, wait};
