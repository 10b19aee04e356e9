//! The clients of the container runtime: CRI v1, containerd's image store, and the streams that
//! CRI hands out for commands in containers. Every call has a deadline; every error names the endpoint
//! and the remedy. It decides nothing about pods and starts none.

mod addresses;
mod connect;
mod error;
mod generated;
mod images;
mod runtime;
mod settings;
mod stream;

pub use addresses::Addresses;
pub use error::Error;
pub use generated::runtime as v1;
pub use images::{ImageStore, Named, PINNED};
pub use runtime::{Runtime, State};
pub use settings::Settings;
pub use stream::{Size, Streams, run as run_command};
