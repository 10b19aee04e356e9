# The parts of the snap's node flavour, as its services run them, without snapd: by bash as root in fresh mount, network, host
# name, IPC and process namespaces. Environment: EDGE (the program), TREE (the parts), CTR, IMAGES (a tar), GROUP (a name for
# cgroups of its own). Says one line for each thing that was looked at; ends with 1 if one was not as it should be.
. "$(dirname "$0")/said.sh"
patience=60
export SNAP_NAME=edge SNAP=/snap/edge/x1 SNAP_COMMON=/var/snap/edge/common
common=$SNAP_COMMON
ctr() { "$CTR" -a $common/run/containerd/containerd.sock -n k8s.io "$@"; }
pod_runs() { [ "$(ctr tasks ls | grep -c RUNNING)" -ge 2 ]; }
shims() { cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -c 'containerd-shim-runc-v2$'; }

mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /snap
mkdir -p /snap/edge/x1
mount --bind "$TREE" /snap/edge/x1
ln -s x1 /snap/edge/current
mount -t tmpfs tmpfs /var/snap
mkdir -p $common/kubelet/config.d $common/containerd/config.d $common/kubelet/root $common/cni/state
# The layout of the snap.
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/kubelet /var/lib/cni
mount --bind $common/kubelet/root /var/lib/kubelet
mount --bind $common/cni/state /var/lib/cni
mount --make-rshared /
hostname node-1
echo '192.0.2.10 node-1' >/run/hosts
mount --bind /run/hosts /etc/hosts
ip link set lo up
ip link add up0 type bridge
ip addr add 192.0.2.10/24 dev up0
ip link set up0 up
ip route add default via 192.0.2.1
for folder in /sys/fs/cgroup/*/; do
    [ "$folder" != /sys/fs/cgroup/unified/ ] || continue
    mkdir -p "$folder$GROUP"
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$folder$file" ] || cat "$folder$file" >"$folder$GROUP/$file"
    done
done
# What this kernel and its cgroups ask for: the owner's own files, which edge leaves as they are.
cat >$common/kubelet/config.d/10-test.conf <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
oomScoreAdj: 0
cgroupRoot: /$GROUP
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
X
cat >$common/containerd/config.d/10-test.toml <<'X'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
X

"$EDGE" node containerd >/run/containerd.log 2>&1 &
containerd=$!
soon "containerd answers" ctr version
ctr images import "$IMAGES" >/dev/null || bad images
# What it reads, and not what a containerd of the host's would.
host=$(ls -R /etc/containerd 2>/dev/null)
has "containerd is told of edge" "$("$EDGE" registry configure-containerd)" "written: $common/containerd/certs.d/_default/hosts.toml"
is "the host's containerd is left alone" "$(ls -R /etc/containerd 2>/dev/null)" "$host"
has "and it is all that it takes" "$("$EDGE" registry configure-containerd)" "nothing to do"
mkdir -p $common/kubelet/manifests
cat >$common/kubelet/manifests/hello.yaml <<'X'
apiVersion: v1
kind: Pod
metadata: {name: hello, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.test/edge/app:1
    imagePullPolicy: Never
    command: [sh, -c, "echo hello; exec sleep 2147483647"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {medium: Memory}}]
X
"$EDGE" node kubelet >/run/kubelet.log 2>&1 &
kubelet=$!
soon "a static pod runs" pod_runs
echo "figure static-pod-ms $took"
has "by kubelet's own program" "$(readlink /proc/$kubelet/exe)" /usr/bin/kubelet
is "edge knows containerd" "$("$EDGE" config get runtime.endpoint)" "unix://$common/run/containerd/containerd.sock"
export EDGE_STATE_DIR=$common
has "edge shows the pod" "$("$EDGE" pod get -A)" hello-node-1
has "enters it, its volume is there" "$("$EDGE" pod exec hello-node-1 -- sh -c 'while read -r line; do echo "$line"; done </proc/mounts')" /scratch
soon "and has its log" sh -c "'$EDGE' pod logs hello-node-1 | grep -q hello"
has "all is mounted below the snap's folder" "$(grep -c " $common/kubelet/root/pods/.*scratch " /proc/self/mountinfo)" 1

kill $kubelet $containerd
wait $kubelet $containerd 2>/dev/null
[ "$(shims)" -ge 1 ] && ok "the pod outlives both" || bad "the pod outlives both"
"$EDGE" node containerd >>/run/containerd.log 2>&1 &
containerd=$!
soon "containerd finds it again" pod_runs
kill $containerd
wait $containerd 2>/dev/null
SNAP_COOKIE=hook EDGE_SNAPCTL=/bin/true "$EDGE" hook remove
is "the remove hook" $? 0
is "no shim is left" "$(shims)" 0
is "nothing is mounted" "$(grep -c " $common" /proc/self/mountinfo)" 0
# A group is busy for a moment after its last process.
for _ in $(seq 20); do
    find /sys/fs/cgroup/*/"$GROUP" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.1
done
[ $failed = 0 ] || tail -n 40 /run/containerd.log /run/kubelet.log
exit $failed
