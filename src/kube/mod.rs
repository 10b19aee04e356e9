//! The few Kubernetes facts edge needs: paths, the protobuf encoding, selectors, patches, tables. Pure: no socket, no file.

mod error;
mod fields;
mod label_lexer;
mod labels;
pub mod meta;
mod path;
mod query;

pub use error::Error;
pub use fields::FieldSelector;
pub use labels::LabelSelector;
pub use path::{GroupVersionResource, Request, ResourceRequest, Verb};
pub use query::Query;
