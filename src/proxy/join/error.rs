//! Why a node could not be joined, or given back.

use std::path::PathBuf;

use crate::proxy::{api, cloud, request};
use crate::trust;

/// Every error leaves join and leave repeatable.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Cloud(#[from] cloud::Error),
    #[error("`{}` is not there hint: give the node's own kubeconfig (kubeadm: /etc/kubernetes/kubelet.conf), or a bootstrap kubeconfig with a token; a daemon that runs does not see what lies below /home, /root and /tmp", .path.display())]
    NoSource { path: PathBuf },
    #[error(transparent)]
    Authority(#[from] trust::Error),
    #[error(transparent)]
    Api(#[from] api::Error),
    #[error("no certificate from the cloud")]
    Request(#[from] request::Error),
    #[error(transparent)]
    File(std::io::Error),
    #[error("the certificate of `{}` is for `{common_name}`, which is no node hint: use the node's own kubeconfig (kubeadm: /etc/kubernetes/kubelet.conf), or a bootstrap kubeconfig with a token", .path.display())]
    NotANode { path: PathBuf, common_name: String },
    #[error(
        "`{name}` is no node name hint: lower-case letters, digits, `-` and `.`; it is kubelet's --hostname-override, or the host name"
    )]
    NodeName { name: String },
    #[error("`{}` is for node `{found}`, not `{wanted}`", .path.display())]
    OtherNode { path: PathBuf, found: String, wanted: String },
    #[error(
        "this gateway is joined as node `{joined}`, not `{wanted}` hint: run `edge leave` first; the cache belongs to `{joined}`"
    )]
    JoinedAsOther { joined: String, wanted: String },
    #[error("this gateway is joined with {what} `{}` hint: run `edge leave` first to change that", .path.display())]
    JoinedElsewhere { what: &'static str, path: PathBuf },
    #[error("`{}` points at edge itself hint: use the kubeconfig with which kubelet spoke to the cloud", .path.display())]
    PointsHere { path: PathBuf },
    #[error(
        "this gateway is joined and the cloud's certificate expired at {at} hint: give --from a new kubeconfig for this node, or a bootstrap kubeconfig with a token; the cache is kept"
    )]
    Dead { at: jiff::Timestamp },
    #[error("`{}` names the key material that edge took over, and edge's own copy of it is missing hint: give --from a new kubeconfig for this node, or a bootstrap kubeconfig with a token", .path.display())]
    Lost { path: PathBuf },
    #[error("`{}` is damaged: {why} hint: restore it from a backup; it says what `edge leave` has to put back", .path.display())]
    Record { path: PathBuf, why: String },
    #[error("cannot leave: `{}`, the kept copy of `{}`, is missing hint: put the file that kubelet needs there, or an empty one to have none", .backup.display(), .path.display())]
    BackupMissing { backup: PathBuf, path: PathBuf },
}

impl Error {
    /// Whether what the caller gave is wrong, rather than something that failed on the way.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Cloud(_)
            | Self::NoSource { .. }
            | Self::NotANode { .. }
            | Self::NodeName { .. }
            | Self::OtherNode { .. }
            | Self::JoinedAsOther { .. }
            | Self::JoinedElsewhere { .. }
            | Self::PointsHere { .. }
            | Self::Dead { .. }
            | Self::Lost { .. } => true,
            Self::Authority(_)
            | Self::Api(_)
            | Self::Request(_)
            | Self::File(_)
            | Self::Record { .. }
            | Self::BackupMissing { .. } => false,
        }
    }
}
