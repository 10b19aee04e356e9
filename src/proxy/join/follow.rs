//! A state folder that was copied to another place: the cloud's kubeconfig names the files in it by their path.

use std::path::Path;

use super::{Error, cloud_kubeconfig, kubelet};
use crate::proxy::cloud::CloudFiles;
use crate::proxy::cloud::kubeconfig::Kubeconfig;
use crate::proxy::join::Record;

/// Has the cloud's kubeconfig that join wrote name the files in `state_dir`, where they are a copy of those that it names;
/// only these are renewed. `true` if it was written anew. What is somebody's own stays as it is, and so does what names
/// a certificate that is newer than the one in `state_dir`: that is no copy.
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
    if named.read_pair(&named.current())?.is_some_and(|original| original.not_after > copy.not_after) {
        return Ok(false);
    }
    let name = config.tls_server_name.as_deref();
    let text = cloud_kubeconfig(&config.server, name, &record.node_name, &ours);
    kubelet::write_in_folder(kubeconfig, &text)?;
    Ok(true)
}
