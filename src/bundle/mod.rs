//! Signed bundles: what a depot carries to gateways that are never connected.
//!
//! # A bundle on a stick
//! ```text
//! edge-bundle/<stream>-<seq>/
//!   FORMAT                        "edge-bundle 1\n"
//!   trust/<N>.root.json           every root since the first
//!   manifest.dsse                 the only way in, at most 1 MiB, signed
//!   blobs.list, refs.list         hashed streams; their digests and sizes are signed
//!   blobs/sha256/<hex>[.pNNNN]    parts of at most 2 GiB; or sha256/<xx>/<hex> where there are many
//!   oci-layout, index.json        for skopeo and oras; never read here
//!   COMPLETE                      written last: a hint, not trust
//! edge-receipts/<gateway>.<stream>.dsse, .have    <gateway>_<stream> where the stream's name has dots
//! ```
//!
//! - `manifest`, `list`, `name`  the format: pure
//! - `keys`      the depot's folder of keys
//! - `gather`, `whole`, `ride`, `create`, `write`, `readback`  the depot's way
//! - `stick`, `choose`, `open`, `siblings`, `state`, `copy`, `import`  the gateway's way, in this order
//! - `inspect`, `sizes`, `history`  looking, and going back
//! - `recall`    what was seen, for a store that was lost
//! - `system`    the system of an appliance that rides along
//! - `extract`   one file out of it
//! - `auto`, `events`  sticks that are plugged in
//! - `receipt`   what a gateway says that it has
//! - `remote`    the same bundle in an OCI registry
//! - `turn`      who waits for whom
//!
//! Refuses to read anything of a stick twice, to follow a name found there, and to unpack.

pub mod auto;
mod choose;
mod copy;
mod create;
mod error;
mod events;
mod extract;
mod facts;
mod gather;
mod history;
mod import;
mod inspect;
pub mod keys;
mod list;
mod manifest;
mod name;
mod names;
mod open;
mod pipeline;
mod put;
mod readback;
mod recall;
mod receipt;
pub mod remote;
mod ride;
mod settings;
mod siblings;
mod sizes;
mod state;
mod stick;
pub mod system;
mod turn;
mod whole;
mod write;

pub use choose::Chosen;
pub use create::{Made, PART_SIZE, Plan, create};
pub use error::{Error, Fault};
pub use extract::Extracted;
pub use gather::Selection;
pub use history::{Entry, Newest, history, newest};
pub use import::{Gateway, Imported, Note};
pub use inspect::Inspected;
pub use list::{BlobLine, Carried, Content, ListReader, RefLine};
pub use manifest::{Audience, Identity, Manifest, PAYLOAD_TYPE};
pub use name::{BUNDLES, RECEIPTS};
pub use receipt::{Believed, RECEIPT_TYPE, Receipt, enrol, read_all as read_receipts};
pub use ride::Riding;
pub use settings::Settings;
pub use stick::{Found, find, find_one};
