# The node flavour of the snap, as root in a tree of tests/snapd/tree whose cgroups are the host's (SNAPD_CGROUP=host): beside
# edge-node.snap, images.tar and a `ctr`. Says one line for each thing that was looked at; ends with 1 if one was not as it
# should be. A file `slow` beside it: the processor is emulated, everything may take four times as long.
. ./said.sh
slow=1
[ ! -e slow ] || slow=4
common=/var/snap/edge/common
runs() { systemctl is-active -q "snap.edge.$1.service"; }
rests() { ! runs "$1" && [ "$(systemctl is-enabled "snap.edge.$1.service")" = disabled ]; }
ctr() { ./ctr -a $common/run/containerd/containerd.sock -n k8s.io "$@"; }
containers() { ctr tasks ls | grep -c RUNNING; }
pod_runs() { [ "$(containers)" -ge 2 ]; }
pods_run() { [ "$(containers)" = 4 ]; }
tasks() { ctr tasks ls | grep RUNNING | sort; }
# The containers of the two pods and no others, for a while.
settled() {
    before=$(tasks)
    sleep $((5 * slow))
    pods_run && [ "$(tasks)" = "$before" ]
}
# What the running daemon says of itself.
offline_mode() { /snap/bin/edge status -o json | grep -qx "  \"offlineMode\": $1,"; }
shims() { cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -c 'containerd-shim-runc-v2$'; }

# A disk that can hold layers, which an overlay cannot, and an address.
mount -t tmpfs -o mode=755 tmpfs /var/snap
snap wait system seed.loaded

echo "# install"
try snap install --dangerous ./edge-node.snap
is "install" "$code" 0
[ "$code" = 0 ] || { echo "$out"; snap tasks --last=install; }
ip() { /snap/edge/current/usr/bin/busybox ip "$@"; }
ip link set lo up
ip link add name up0 type bridge && ip addr add 192.0.2.10/24 dev up0 && ip link set up0 up && ip route add default via 192.0.2.1
echo "192.0.2.10 snapd-test" >/etc/hosts
for plug in containers kubernetes network-control firewall-control mount-observe process-control system-observe \
    hardware-observe log-observe; do
    try snap connect edge:$plug
    is "connect $plug" "$code" 0
    [ "$code" = 0 ] || echo "$out"
done
# What this kernel and its cgroups ask of a kubelet.
mkdir -p $common/kubelet/config.d $common/containerd/config.d
cat >$common/kubelet/config.d/10-test.conf <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
oomScoreAdj: 0
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
X
cat >$common/containerd/config.d/10-test.toml <<X
version = 2
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
X
snap restart edge.containerd edge.kubelet
soon $((60 * slow)) "containerd answers" ctr version
soon $((60 * slow)) "kubelet is healthy" /snap/edge/current/usr/bin/busybox wget -qO- http://127.0.0.1:10248/healthz
is "edge knows containerd" "$(/snap/bin/edge config get runtime.endpoint)" "unix://$common/run/containerd/containerd.sock"
is "and snapd does" "$(snap get edge runtime.endpoint)" "unix://$common/run/containerd/containerd.sock"
try snap run edge.edge node kubelet --help
is "the command" "$code" 0

echo "# a static pod"
try ctr images import images.tar
is "images" "$code" 0
[ "$code" = 0 ] || echo "$out"
cat >$common/kubelet/manifests/hello.yaml <<'X'
apiVersion: v1
kind: Pod
metadata: {name: hello, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, volumeMounts: [{name: scratch, mountPath: /scratch}]}
  volumes: [{name: scratch, emptyDir: {medium: Memory}}]
X
began=$(now)
soon $((90 * slow)) "a static pod runs" pod_runs
echo "figure static-pod-ms $(since "$began")"
try /snap/bin/edge pod get -A
has "edge shows it" "$out" "hello"
try /snap/bin/edge pod exec hello-snapd-test -- sh -c 'echo within'
has "enters it" "$out" within
has "its volume is mounted below the snap's folder" "$(cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -o " $common/kubelet/root/pods/[^ ]*scratch " | sort -u)" scratch

echo "# a pod with a network of its own"
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
    # As CoreDNS has it: under AppArmor that keeps a program from changing its profile.
    securityContext: {allowPrivilegeEscalation: false}
    command: [sh, -c, "echo own >/tmp/index.html; exec busybox httpd -f -p 8080 -h /tmp"]
    ports: [{containerPort: 8080, hostPort: 8081}]
X
answers() { [ "$(/snap/edge/current/usr/bin/busybox wget -T $((2 * slow)) -qO- "http://$1/")" = own ]; }
# host-local has a file for each address that it gave away.
own_answers() { for file in $common/cni/state/networks/edge/10.*; do answers "${file##*/}:8080" && return; done; return 1; }
soon $((90 * slow)) "it answers" own_answers
soon $((10 * slow)) "and at its port of the node" answers 192.0.2.10:8081
try /snap/bin/edge pod exec own-snapd-test -- sh -c 'echo within'
has "and it is entered" "$out" within
if [ -e /sys/kernel/security/apparmor ]; then
    confined() { cat "/proc/$(ctr tasks ls | awk '/RUNNING/ { print $2 }' | xargs -I{} grep -la httpd /proc/{}/cmdline | cut -d / -f 3)/attr/current"; }
    is "AppArmor confines its containers as on any node" "$(confined)" "cri-containerd.apparmor.d (enforce)"
fi

echo "# keys"
try snap set edge node.kubelet=false
is "kubelet off" "$code" 0
soon $((30 * slow)) "kubelet rests" rests kubelet
echo "figure kubelet-off-ms $took"
is "containerd runs on" "$(runs containerd && echo yes)" yes
pods_run && ok "and so do the pods" || bad "and so do the pods" "$(ctr tasks ls)"
try snap set edge node.containerd=false
soon $((60 * slow)) "containerd rests" rests containerd
[ "$(shims)" -ge 1 ] && ok "the pod's shim runs on" || bad "the pod's shim runs on"
try snap set edge node.containerd=true node.kubelet=true
is "both on" "$code" 0
soon $((60 * slow)) "containerd is back" ctr version
soon $((60 * slow)) "kubelet is back" runs kubelet
soon $((60 * slow)) "the pods are known again" pods_run
try snap set edge node.kubelet=perhaps
is "a bad value: exit code" "$code" 1
has "a bad value: one line" "$out" 'key `node.kubelet` is `perhaps`, expected `true` or `false`'

echo "# join"
# Nobody answers at this address: that the cloud's pods run then is shown in tests/it/node_flavour.rs.
cp kubelet.conf $common/bootstrap.kubeconfig
try /snap/bin/edge join --from $common/bootstrap.kubeconfig
is "join" "$code" 0
has "and what is left to do" "$out" "snap restart edge.kubelet"
has "node" "$out" 'node `ship-7` is joined'
snap restart edge.kubelet
words() { tr '\0' '\n' <"/proc/$(systemctl show -p MainPID --value snap.edge.kubelet.service)/cmdline"; }
joined() { words | grep -qx -- "--kubeconfig=$common/kubelet.kubeconfig" && words | grep -qx -- --hostname-override=ship-7; }
soon $((60 * slow)) "kubelet is started with it" joined
soon $((60 * slow)) "and edge serves it" sh -c "/snap/bin/edge status -o json | tr -d ' \n' | grep -q '\"cloud\":{'"
try snap set edge offline-mode=false
is "offline mode off" "$code" 0
soon $((30 * slow)) "edge follows" offline_mode false
try snap set edge offline-mode=true
is "and on" "$code" 0
soon $((30 * slow)) "edge follows again" offline_mode true
# What kubelet told in an outage waits for the cloud, and is given up only if one says so. It may have told nothing yet.
try /snap/bin/edge leave
if [ "$code" != 0 ]; then
    has "leave is refused for what waits alone" "$out" "to be told to the cloud"
    try /snap/bin/edge leave --discard-changes
fi
is "leave" "$code" 0
[ "$code" = 0 ] || echo "$out"
snap restart edge.kubelet
alone() { words | grep -q kubelet && ! joined; }
soon $((60 * slow)) "kubelet is alone again" alone
# Under another name of the node a static pod is another pod, beside those of the first one.
soon $((120 * slow)) "the pods run for it again, and not under the other name" settled

echo "# refresh"
before=$(tasks)
try snap install --dangerous ./edge-node-2.snap
is "refresh" "$code" 0
[ "$code" = 0 ] || { echo "$out"; snap tasks --last=refresh; }
soon $((60 * slow)) "containerd runs after it" ctr version
soon $((60 * slow)) "kubelet too" runs kubelet
is "the pods ran on" "$(tasks)" "$before"

echo "# remove"
try snap remove --purge edge
is "remove" "$code" 0
[ "$code" = 0 ] || echo "$out"
tasks=$(snap tasks --last=remove)
case $tasks in *"ignoring failure"*) bad "the remove hook ended well" "$tasks" ;; *) ok "the remove hook ended well" ;; esac
is "nothing of the snap is left" "$(ls -d /var/snap/edge /snap/edge 2>/dev/null)" ""
is "no shim is left" "$(shims)" 0
is "nothing is mounted" "$(grep -c " $common" /proc/self/mountinfo)" 0
[ $failed = 0 ] || { snap changes; journalctl --no-pager -u snapd -u 'snap.edge*' | tail -n 120; }
exit $failed
