//! The address for pods is for those of this node: a neighbour has only to send there what is meant for it.

use anyhow::{Result, ensure};

use crate::support::{NodeOptions, Scene, workload};

const ADDRESS: &str = "169.254.64.45";
const LIST: &str = "/api/v1/namespaces/default/configmaps";
/// What is answered to one who shows nothing; `000` for nothing.
const CODE: &str = "curl -sk -m 5 -o /dev/null -w '%{http_code}' https://169.254.64.45:6445/version || true";

#[test]
fn another_machine_is_not_served_at_the_address_for_pods() -> Result<()> {
    let scene = Scene::ready(&NodeOptions::default())?;
    workload::prepare_clients(&scene.node)?;
    let rights = workload::rights("client", "", &["configmaps"], &["client"]);
    scene.cluster.apply(&(workload::client("client") + &rights))?;
    workload::wait_clients(&scene.node, 1);
    let list = ["pod", "exec", "client", "--", "kubectl", "get", "--raw", LIST];
    ensure!(scene.edge.run(&scene.node, &list)?.contains("kube-root-ca.crt"), "a pod is kept out");
    let machine = scene.node.machine()?;
    ensure!(machine.shell(CODE)?.trim() == "401", "a program on the gateway is kept out");

    let own = machine.shell("ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'")?;
    let neighbour = scene.cluster.machine();
    neighbour.shell(&format!("ip route add {ADDRESS}/32 via {}", own.trim()))?;
    let connects = format!("exec 3<>/dev/tcp/{ADDRESS}/6445");
    neighbour.run(&["timeout", "5", "bash", "-c", &connects])?;
    let code = neighbour.shell(CODE)?;
    ensure!(code.trim() == "000", "a neighbour is answered {code}");
    ensure!(scene.edge.run(&scene.node, &list)?.contains("kube-root-ca.crt"), "a pod is kept out since");
    Ok(())
}
