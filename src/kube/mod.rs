//! The few Kubernetes facts edge needs: paths, the protobuf encoding, selectors, patches, tables. Pure: no socket, no file.

pub mod codec;
mod decode;
pub mod discovery;
mod encode;
mod error;
mod fields;
#[cfg(test)]
mod fixtures;
mod label_lexer;
mod labels;
pub mod meta;
pub mod needs;
pub mod negotiate;
pub mod patch;
mod path;
mod query;
mod scalar;
pub mod schema;
pub mod status;
pub mod stream;
pub mod table;
mod wire;

pub use error::Error;
pub use fields::FieldSelector;
pub use labels::LabelSelector;
pub use path::{GroupVersionResource, Request, ResourceRequest, Verb};
pub use query::Query;
pub use stream::Encoding;
