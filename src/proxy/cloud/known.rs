//! What is known of the node's credentials, also where they cannot be read: a node that has joined starts its pods all the same.

use std::path::Path;
use std::sync::Arc;

use super::kubeconfig::Kubeconfig;
use super::{Credentials, Error};

/// What the node speaks to the cloud with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// They were read.
    Good(Arc<Credentials>),
    /// They cannot be read, and nothing is asked of the cloud until they can.
    Lost(Arc<Lost>),
}

/// What there is without them.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost {
    /// The node's name.
    pub node: String,
    /// Such as `https://10.0.0.1:6443`; empty where that cannot be read either.
    pub server: String,
    /// Why they cannot be read.
    pub why: String,
}

impl Known {
    /// Of `node`, which has joined with the `kubeconfig` that cannot be used.
    pub fn lost(kubeconfig: &Path, node: &str, why: &Error) -> Self {
        let server = Kubeconfig::read(kubeconfig).map(|config| config.server).unwrap_or_default();
        Self::Lost(Arc::new(Lost { node: node.to_owned(), server, why: why.to_string() }))
    }

    /// The credentials, if there are any.
    pub fn good(&self) -> Option<Arc<Credentials>> {
        match self {
            Self::Good(credentials) => Some(credentials.clone()),
            Self::Lost(_) => None,
        }
    }

    /// Why there are none.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Good(_) => None,
            Self::Lost(lost) => Some(&lost.why),
        }
    }

    /// The name of this node, if it is known.
    pub fn node_name(&self) -> Option<&str> {
        match self {
            Self::Good(credentials) => credentials.node_name(),
            Self::Lost(lost) => Some(&lost.node),
        }
    }

    /// Where the cloud is; empty if that is not known.
    pub fn server(&self) -> String {
        match self {
            Self::Good(credentials) => credentials.server.to_string(),
            Self::Lost(lost) => lost.server.clone(),
        }
    }
}
