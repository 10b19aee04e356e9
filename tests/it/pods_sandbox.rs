//! What a pod has with its sandbox: an IPC namespace of its own, and nobody who renews it unasked. Parts of the test in
//! `pods`.

use anyhow::{Result, ensure};

use crate::pods::Gateway;

/// Self-heal is off unless somebody turns it on: a pod that fails again and again is kubelet's, in the `sandbox` it had.
pub(crate) fn heals_nothing_unasked(gateway: &Gateway, sandbox: &str) -> Result<()> {
    let status = gateway.edge.status(&gateway.node)?;
    let part = status["parts"].as_array().into_iter().flatten().find(|part| part["part"] == "self-heal");
    assert_eq!(part.map(|part| &part["state"]), Some(&"off".into()), "{status}");
    assert_eq!(gateway.node.sandbox("crash")?.0, sandbox);
    assert!(gateway.pod("crash")?.restarts() >= 3);
    let page = gateway.edge(&["pod", "describe", "crash"])?.0;
    assert!(page.contains("BackOff") && !page.contains("SelfHeal"), "{page}");
    Ok(())
}

/// Messages of this size at the most is what only one IPC namespace says.
const MARK: &str = "4321";

/// Marks the IPC namespace of a container.
pub(crate) fn mark_ipc(gateway: &Gateway, container: &str) -> Result<()> {
    let tasks = gateway.node.ctr(&["tasks", "ls"])?;
    let pid = tasks.lines().find_map(|line| line.strip_prefix(container)?.split_whitespace().next());
    let pid = pid.ok_or_else(|| anyhow::anyhow!("{container} is not in\n{tasks}"))?;
    let script = format!("nsenter --target {pid} --ipc sh -c 'echo {MARK} >/proc/sys/kernel/msgmax'");
    gateway.node.machine()?.shell(&script)?;
    ensure!(is_marked(gateway)?, "the mark is not seen within");
    Ok(())
}

/// Whether the pod `plain` is in the IPC namespace that was marked.
pub(crate) fn is_marked(gateway: &Gateway) -> Result<bool> {
    let read = ["pod", "exec", "plain", "-c", "main", "--", "cat", "/proc/sys/kernel/msgmax"];
    let (size, words, code) = gateway.edge(&read)?;
    ensure!(code == 0 && size.trim().parse::<u32>().is_ok(), "{size}{words}");
    Ok(size.trim() == MARK)
}
