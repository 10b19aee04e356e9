//! An appliance in a real cloud, which it joins at its first boot; then the cloud is gone, and the appliance loses power.
//! Long, and of `scripts/test --long`.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::image::{BOOT, HEALTHY, made};
use crate::support::vm::{self, Cable};
use crate::support::{Cluster, ClusterOptions, Cut, KUBE_ADDRESS, seconds};

/// The certificate's name, which is not what the machine calls itself.
const NODE: &str = "ship-7";
/// What a pod can ask of the cloud, told on the machine's console: there may be no other way out.
const PODS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: from-a-configmap}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {word: from-a-secret}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: teller}
spec:
  replicas: 1
  selector: {matchLabels: {app: teller}}
  template:
    metadata: {labels: {app: teller}}
    spec:
      containers:
      - name: teller
        image: docker.io/ship/greeter:1
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'test -s /var/run/secrets/kubernetes.io/serviceaccount/token && grep -q 10.96.0.10 /etc/resolv.conf && echo TOLD $(cat /words/word) $SECRET on $NODE > /dev/ttyS0; sleep 2147483647']
        env:
        - {name: SECRET, valueFrom: {secretKeyRef: {name: hidden, key: word}}}
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        securityContext: {privileged: true}
        volumeMounts: [{name: words, mountPath: /words}]
      volumes: [{name: words, configMap: {name: words}}]
";
/// What kubeadm lays into each cloud that it makes, and lets its nodes read.
const KUBEADM: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: kubelet-config, namespace: kube-system}
data:
  kubelet: |
    apiVersion: kubelet.config.k8s.io/v1beta1
    kind: KubeletConfiguration
    clusterDNS: [10.96.0.10]
    clusterDomain: cluster.local
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: 'kubeadm:kubelet-config', namespace: kube-system}
rules: [{apiGroups: [''], resources: [configmaps], resourceNames: [kubelet-config], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: 'kubeadm:kubelet-config', namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: 'kubeadm:kubelet-config'}
subjects: [{kind: Group, name: 'system:nodes'}]
";
const TOLD: &str = "TOLD from-a-configmap from-a-secret on ship-7";

#[test]
#[ignore = "boots a machine of its own, twice, beside a cloud"]
fn what_the_cloud_gave_a_gateway_starts_again_without_the_cloud() -> Result<()> {
    let (workshop, image) = made();
    let cluster = Cluster::start(&ClusterOptions::default())?;
    cluster.ready()?;
    cluster.wait_for("the namespace of the cloud's own", seconds(90), || {
        cluster.raw("/api/v1/namespaces/kube-system")
    });
    cluster.apply(KUBEADM)?;
    let mut machine = workshop.machine("joined", image, Cable::Beside(cluster.machine().init()))?;
    let place = machine.disk().parent().context("no folder")?.to_owned();
    fs::create_dir(place.join("edge-config"))?;
    fs::write(place.join("edge-config/cloud.kubeconfig"), cluster.node_kubeconfig(KUBE_ADDRESS, NODE)?)?;
    for (name, of) in [("authorized_keys", "owner/key.pub"), ("1.root.json", "KEYS/1.root.json")] {
        fs::copy(workshop.place.path(of), place.join("edge-config").join(name))?;
    }
    let copy = ["mcopy", "-s", "-i", "/work/disk.img@@1M", "/work/edge-config", "::"];
    let output = vm::tool(&place, &copy)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    machine.start()?;
    machine.wait("configuration taken from the EFI system partition: ", BOOT)?;
    machine.wait(HEALTHY, BOOT)?;
    cluster.wait_for("a Ready appliance", BOOT, || {
        ensure!(cluster.node_ready(NODE)?, "not Ready");
        Ok(())
    });
    cluster.wait_for("the default service account", seconds(90), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    // Pods that start from now on find the cluster's names; and so they do after the reboot without a cloud.
    machine.run("for i in $(seq 60); do grep -q 10.96.0.10 /run/edge/kubelet.yaml && exit; sleep 2; done; edge status; exit 1")?;
    cluster.apply(PODS)?;
    machine.wait(TOLD, BOOT)?;
    cluster.wait_for("the pod, as the cloud sees it", BOOT, || {
        let pods = cluster.pods("default")?;
        ensure!(pods.iter().any(|pod| pod.name.starts_with("teller-") && pod.running()), "{pods:?}");
        Ok(())
    });
    let told = machine.run("hostname; cat /run/edge/kubelet.env")?;
    assert!(told.starts_with("edge-") && told.contains("--hostname-override=ship-7"), "{told}");

    cluster.cut(Cut::Stop)?;
    machine.kill()?;
    machine.start()?;
    machine.wait(HEALTHY, BOOT)?;
    machine.wait(TOLD, BOOT)?;
    let told = machine.run("edge status -o json")?;
    let status: serde_json::Value = serde_json::from_str(&told)?;
    assert_ne!(status["link"]["state"], "connected", "{told}");

    // A machine whose clock has no battery, still without the cloud: it comes up in 1970, and whatever the system makes of
    // that, the pods start.
    machine.kill()?;
    machine.more.extend(["-rtc", "base=1970-01-01T00:00:30"].map(String::from));
    machine.start()?;
    machine.wait(HEALTHY, BOOT)?;
    machine.wait(TOLD, BOOT)?;
    // And with services that are started in 1970 itself, which systemd's own floor keeps from them at a boot: the pod's
    // sandbox is made anew, by a kubelet that has lists, tokens and certificates of then to judge.
    machine.again()?;
    machine
        .run("systemctl stop chrony kubelet edge; date -s @600; systemctl start edge kubelet; date +%Y")?;
    let told = machine.run(
        "for i in 1 2 3 4 5 6; do edge pod restart --whole -l app=teller --timeout 5m && break; sleep 10; done; date +%Y",
    )?;
    ensure!(told.trim_end().ends_with("1970"), "{told}");
    machine.wait(TOLD, BOOT)?;
    // The cloud's certificate is not valid yet in 1970.
    let now = edge::sys::clock::now().as_second();
    machine.run(&format!("date -s @{now}; systemctl start chrony"))?;

    // And the cloud finds its node again, with the same pod.
    cluster.heal()?;
    cluster.wait_for("the appliance, Ready again", BOOT, || {
        let ready = cluster.node_ready(NODE)?;
        let pods = cluster.pods("default")?;
        let runs = pods.iter().filter(|pod| pod.name.starts_with("teller-") && pod.running()).count();
        ensure!(ready && runs == 1, "{ready} {pods:?}");
        Ok(())
    });
    Ok(())
}
