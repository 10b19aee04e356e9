//! A state folder that was copied to another place: the cloud's kubeconfig names the files in it by their path.

use std::path::Path;

use super::{Error, cloud_kubeconfig, kubelet};
use crate::proxy::cloud::CloudFiles;
use crate::proxy::cloud::kubeconfig::Kubeconfig;
use crate::proxy::join::Record;

/// Has the cloud's kubeconfig that join wrote name the files in `state_dir`, where they are a copy of those that it names;
/// only these are renewed. `true` if it was written anew. What is somebody's own stays as it is, and so does what names
/// another cloud's files than those in `state_dir`, or a certificate that is newer: that is no copy, or an old one.
///
/// # Errors
/// Something cannot be read or written; the kubeconfig is as it was.
pub fn follow(state_dir: &Path, kubeconfig: &Path) -> Result<bool, Error> {
    let Some(record) = Record::read(state_dir)?.filter(|record| record.cloud_kubeconfig.path == kubeconfig)
    else {
        return Ok(false);
    };
    let config = Kubeconfig::read(kubeconfig)?;
    let ours = CloudFiles::of(state_dir);
    let Some(named) = CloudFiles::named_by(&config).filter(|named| *named != ours) else { return Ok(false) };
    let Some(copy) = ours.read_pair(&ours.current())?.filter(|_| ours.authority().exists()) else {
        return Ok(false);
    };
    if let Some(original) = named.read_pair(&named.current())? {
        let authority = |of: &CloudFiles| std::fs::read(of.authority()).ok();
        let is_newer = original.not_before > copy.not_before || original.not_after > copy.not_after;
        if is_newer || authority(&named) != authority(&ours) {
            return Ok(false);
        }
    }
    let name = config.tls_server_name.as_deref();
    let text = cloud_kubeconfig(&config.server, name, &record.node_name, &ours);
    kubelet::write_in_folder(kubeconfig, &text)?;
    Ok(true)
}
