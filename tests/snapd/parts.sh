# The parts of the snap's node flavour, as its services run them, without snapd: by bash as root in fresh mount, network, host
# name, IPC and process namespaces. Environment: EDGE (the program), TREE (the parts), CTR, IMAGES (a tar), GROUP (a name for
# cgroups of its own). Says one line for each thing that was looked at; ends with 1 if one was not as it should be.
. "$(dirname "$0")/said.sh"
patience=60
export SNAP_NAME=edge SNAP=/snap/edge/x1 SNAP_COMMON=/var/snap/edge/common
# As snapd sets it, to a folder that nobody has made.
export XDG_RUNTIME_DIR=/run/user/0/snap.edge
common=$SNAP_COMMON
ctr() { "$CTR" -a $common/run/containerd/containerd.sock -n k8s.io "$@"; }
pod_runs() { [ "$(ctr tasks ls | grep -c RUNNING)" -ge 2 ]; }
pods_run() { [ "$(ctr tasks ls | grep -c RUNNING)" -ge 4 ]; }
answers() { [ "$(/snap/edge/current/usr/bin/busybox wget -T 2 -qO- "http://$1/")" = own ]; }
# host-local has a file for each address that it gave away.
own_answers() { for file in $common/cni/state/networks/edge/10.*; do answers "${file##*/}:8080" && return; done; return 1; }
shim_pids() { grep -la 'containerd-shim-runc-v2' /proc/[0-9]*/cmdline 2>/dev/null | cut -d / -f 3; }
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
cat >$common/kubelet/manifests/own.yaml <<'X'
apiVersion: v1
kind: Pod
metadata: {name: own, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.test/edge/app:1
    imagePullPolicy: Never
    command: [sh, -c, "echo own >/tmp/index.html; exec busybox httpd -f -p 8080 -h /tmp"]
    ports: [{containerPort: 8080, hostPort: 8081}]
X
soon "a pod with a network of its own answers" own_answers
echo "figure own-network-ms $took"
soon "and at its port of the node" answers 192.0.2.10:8081
has "all is mounted below the snap's folder" "$(grep -c " $common/kubelet/root/pods/.*scratch " /proc/self/mountinfo)" 1

kill $kubelet $containerd
wait $kubelet $containerd 2>/dev/null
[ "$(shims)" -ge 1 ] && ok "the pod outlives both" || bad "the pod outlives both"
own_answers && ok "and its network" || bad "and its network"
"$EDGE" node containerd >>/run/containerd.log 2>&1 &
containerd=$!
soon "containerd finds it again" pods_run

# A power cut, as far as one can be made here: nothing runs, nothing is mounted, no network is there, and what CNI plugins
# wrote last has no bytes.
ctr tasks ls -q | while read -r id; do ctr tasks kill --signal 9 "$id"; done
kill -9 $containerd $(shim_pids) 2>/dev/null
wait $containerd 2>/dev/null
awk -v below="$common/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r umount -l
ip link del cni0
for file in $common/cni/state/results/* $common/cni/state/networks/edge/10.*; do : >"$file"; done
is "the notes of plugins are lost" "$(find $common/cni/state/results $common/cni/state/networks/edge -name '10.*' -size 0 -o -name '*eth0' -size 0 | wc -l)" 2
echo another >$common/run/boot-id
"$EDGE" node containerd >>/run/containerd.log 2>&1 &
containerd=$!
soon "containerd starts anew" ctr version
"$EDGE" node kubelet >>/run/kubelet.log 2>&1 &
kubelet=$!
soon "both pods are back" pods_run
soon "and their network" answers 192.0.2.10:8081
echo "figure back-ms $took"
kill $kubelet $containerd
wait $kubelet $containerd 2>/dev/null
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
