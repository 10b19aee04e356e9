# The snap where AppArmor enforces: run by tests/snapd/vm as root, beside edge.snap, images.tar, `node/` (containerd, its shim,
# runc, ctr, kubelet, busybox: the machine's own), `stick/` (a signed bundle) and root.json (whom to trust). What is not
# connected is denied, and what is connected does all that edge is for without one denial. Says one line for each thing that
# was looked at; ends with 1 if one was not as it should be.
. ./said.sh
edge() { /snap/bin/edge "$@"; }
common=/var/snap/edge/common
ctr() { ./node/ctr -n k8s.io "$@"; }
ip() { ./node/busybox ip "$@"; }
fetch() { ./node/busybox wget -qO- "$@"; }
daemon() { systemctl show -p MainPID --value snap.edge.daemon.service; }

# The kernel's lines about what a program of the snap was denied since the last call, without what differs each time.
seen=0
denied() {
    dmesg | grep -c . >/run/lines
    dmesg | tail -n "+$((seen + 1))" | grep 'apparmor="DENIED"' | grep 'profile="snap\.edge' |
        sed 's/.*apparmor=/apparmor=/; s/ pid=[0-9]*//; s/\/proc\/[0-9]*\//\/proc\/PID\//' | sort | uniq -c
    seen=$(cat /run/lines)
}
# connected WHAT: nothing was denied since the last call.
quiet() {
    denied >/run/denied
    is "$1: nothing is denied" "$(cat /run/denied)" ""
}

echo "# the machine's own node"
snap wait system seed.loaded
is "AppArmor is on" "$(cat /sys/module/apparmor/parameters/enabled)" Y
echo "# confinement: $(snap debug confinement); kernel $(uname -r)"
ip link set lo up
ip link add name up0 type bridge && ip addr add 192.0.2.10/24 dev up0 && ip link set up0 up && ip route add default via 192.0.2.1
echo "192.0.2.10 snapd-test" >>/etc/hosts
mkdir -p /etc/containerd/certs.d /etc/kubernetes/manifests /var/lib/kubelet/pki
cp kubelet.conf /etc/kubernetes/kubelet.conf
cat >/etc/containerd/config.toml <<'Y'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.8"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
Y
cat >/etc/kubernetes/kubelet.yaml <<'Y'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: /etc/kubernetes/manifests
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {webhook: {enabled: false}, anonymous: {enabled: true}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
evictionHard: {memory.available: 20Mi, nodefs.available: 1%, imagefs.available: 1%}
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
Y
cat >/etc/kubernetes/manifests/hello.yaml <<'Y'
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
    command: [sh, -c, "echo hello from the pod; trap 'exit 0' TERM; while sleep 0.2; do :; done"]
Y
systemd-run -q --unit=containerd -p Delegate=yes -p KillMode=process "--setenv=PATH=$PWD/node:$PATH" "$PWD/node/containerd"
soon 120 "containerd answers" ctr version
try ctr images import images.tar
is "images" "$code" 0
systemd-run -q --unit=kubelet "--setenv=PATH=$PWD/node:$PATH" "$PWD/node/kubelet" --config=/etc/kubernetes/kubelet.yaml
pod_runs() { [ "$(ctr tasks ls | grep -c RUNNING)" -ge 2 ]; }
soon 240 "a static pod runs" pod_runs

echo "# nothing is connected"
try snap install --dangerous ./edge.snap
is "install" "$code" 0
[ "$code" = 0 ] || { echo "$out"; snap tasks --last=install; }
soon 60 "its configuration is in force" test -e $common/edge.toml
profiles=$(grep -c '^snap\.edge\.' /sys/kernel/security/apparmor/profiles)
[ "$profiles" -ge 10 ] && ok "each program and hook has a profile" || bad "each program and hook has a profile" "$profiles"
is "which enforces" "$(grep '^snap\.edge\.' /sys/kernel/security/apparmor/profiles | grep -vc '(enforce)$')" 0
is "the daemon's too" "$(cat "/proc/$(daemon)/attr/current")" "snap.edge.daemon (enforce)"
try snap set edge cloud.probe-interval=11s
is "set" "$code" 0
in_force() { [ "$(edge config get "$1")" = "$2" ]; }
soon 60 "and in force" in_force cloud.probe-interval 11s
try edge status
is "status" "$code" 0
quiet "install, set, status"
try edge join --from /etc/kubernetes/kubelet.conf --kubelet-kubeconfig /etc/kubernetes/kubelet.conf
is "join" "$code" 2
has "join names the line that is missing" "$out" "snap connect edge:kubelet"
has "which AppArmor denied" "$(denied)" 'name="/etc/kubernetes/kubelet.conf"'
cp kubelet.conf $common/given.conf
try edge join --from $common/given.conf
is "join with a file of the snap's own" "$code" 1
has "join names the same line" "$out" "snap connect edge:kubelet"
has "which AppArmor denied" "$(denied)" 'name="/var/lib/snapd/hostfs/var/lib/kubelet/pki'
rm $common/given.conf
try edge registry configure-containerd
is "containerd's configuration" "$code" 1
has "names the line that is missing" "$out" "snap connect edge:containerd-config"
has "which AppArmor denied" "$(denied)" 'name="/etc/containerd'
try edge pod logs hello-snapd-test
is "logs" "$code" 1
has "names the line that is missing" "$out" "snap connect edge:log-observe"
has "which AppArmor denied" "$(denied)" 'name="/var/log/pods'
try snap set edge cloud.kubeconfig=/etc/kubernetes/kubelet.conf
is "a setting that names a file of the host's" "$code" 1
has "is refused with the line that is missing" "$out" "snap connect edge:kubelet"
has "which AppArmor denied" "$(denied)" 'name="/etc/kubernetes/kubelet.conf"'
mkdir -p /media/stick && mount --bind stick /media/stick
try edge bundle inspect /media/stick
has "a stick" "$out" "snap connect edge:removable-media"
has "which AppArmor denied" "$(denied)" 'name="/media'
# A file of root's own folder may not be read, which is as it should be. Without a root nobody looks for sticks.
try edge trust pin "$PWD/root.json"
[ "$code" = 0 ] || { cp root.json $common/ && try edge trust pin $common/root.json; }
is "trust" "$code" 0
[ "$code" = 0 ] || echo "$out"
told() { edge status | grep -F "$1"; }
try snap set edge bundle.auto-import=true
soon 60 "sticks that come are not seen, which is told" told "snap connect edge:mount-observe"
try snap set edge bundle.auto-import=false
has "as AppArmor denied it" "$(denied)" 'name="/proc/PID/mountinfo"'
[ "$(cat /proc/net/dev | grep -c edge-api)" = 0 ] && ok "no interface for pods" || bad "no interface for pods"

echo "# all is connected"
denied >/dev/null
for plug in containerd kubelet network-control containerd-config log-observe removable-media mount-observe hardware-observe; do
    try snap connect edge:$plug
    is "connect $plug" "$code" 0
    [ "$code" = 0 ] || echo "$out"
done
quiet "connect"
try edge pod get -A
has "pods are seen" "$out" "hello-snapd-test"
has "and run" "$out" "Running"
try edge pod describe hello-snapd-test
is "described" "$code" 0
[ "$code" = 0 ] || echo "$out"
try edge pod logs hello-snapd-test
has "their logs" "$out" "hello from the pod"
try edge pod exec hello-snapd-test -- sh -c 'echo within; exit 5'
is "entered" "$code $out" "5 within"
before=$(ctr tasks ls | awk '/RUNNING/ { print $1 }' | sort)
try edge pod restart hello-snapd-test
is "restarted" "$code" 0
[ "$code" = 0 ] || echo "$out"
[ "$(ctr tasks ls | awk '/RUNNING/ { print $1 }' | sort)" != "$before" ] && ok "by new containers" || bad "by new containers"
quiet "pods"
try edge registry configure-containerd
is "containerd asks edge" "$code" 0
[ "$code" = 0 ] || echo "$out"
has "for images" "$(cat /etc/containerd/certs.d/*/hosts.toml)" 127.0.0.1:5000
is "the registry answers" "$(fetch http://127.0.0.1:5000/v2/)" "{}"
quiet "the registry"
try edge bundle import /media/stick
is "a stick's bundle is imported" "$code" 0
[ "$code" = 0 ] || echo "$out"
echo "for the crew" >$common/depot.txt
try edge bundle keygen --out $common/KEYS
is "keys are made" "$code" 0
try edge bundle create --stream depot --keys $common/KEYS --to /media/stick --file $common/depot.txt
is "a bundle is made on the stick" "$code" 0
[ "$code" = 0 ] || echo "$out"
quiet "a bundle is made"
rm -rf /media/stick/edge-bundle/depot-1
try snap set edge bundle.auto-import=true
soon 60 "and is seen by itself" told "/media/stick: nothing new"
quiet "the stick"
try edge join --from /etc/kubernetes/kubelet.conf --kubelet-kubeconfig /etc/kubernetes/kubelet.conf
is "join" "$code" 0
[ "$code" = 0 ] || echo "$out"
listens() { bash -c 'exec 3<>/dev/tcp/127.0.0.1/6445'; }
soon 60 "the proxy listens" listens
has "pods have a way to it" "$(ip addr show edge-api)" 169.254.64.45
try snap disconnect edge:network-control
is "which is not taken from edge while it is there" "$code" 1
has "with the reason" "$out" 'interface `edge-api`, which could not be taken away any more'
quiet "join"
snap restart edge.daemon >/dev/null 2>&1
soon 60 "the proxy listens again" listens
try edge store verify
is "verify" "$code" 0
[ "$code" = 0 ] || echo "$out"
try edge gc
is "gc" "$code" 0
[ "$code" = 0 ] || echo "$out"
try snap run edge.edge status -o json
is "status" "$code" 0
# The looks for sticks, pins, pods and the cloud go on meanwhile.
sleep 45
try snap install --dangerous ./edge-2.snap
is "refresh" "$code" 0
[ "$code" = 0 ] || { echo "$out"; snap tasks --last=refresh; }
soon 60 "the proxy listens after it" listens
try snap revert edge
is "revert" "$code" 0
soon 60 "the proxy listens after that" listens
quiet "restart, store, refresh, revert"
try edge leave --discard-changes
is "leave" "$code" 0
[ "$code" = 0 ] || echo "$out"
is "kubelet has its own way back" "$(cat /etc/kubernetes/kubelet.conf)" "$(cat kubelet.conf)"
is "containerd asks nobody" "$(ls /etc/containerd/certs.d)" ""
# Once more, for a removal that must do all of it by itself.
try edge join --from /etc/kubernetes/kubelet.conf --kubelet-kubeconfig /etc/kubernetes/kubelet.conf
is "join again" "$code" 0
try edge registry configure-containerd
is "and containerd's configuration" "$code" 0
try snap remove --purge edge
is "remove" "$code" 0
[ "$code" = 0 ] || echo "$out"
case $(snap tasks --last=remove) in *"ignoring failure"*) bad "the remove hook ended well" "$(snap tasks --last=remove)" ;; *) ok "the remove hook ended well" ;; esac
is "containerd asks nobody any more" "$(ls /etc/containerd/certs.d)" ""
is "kubelet has its own way again" "$(cat /etc/kubernetes/kubelet.conf)" "$(cat kubelet.conf)"
is "no interface for pods is left" "$(grep -c edge-api /proc/net/dev)" 0
quiet "leave, join, remove"
umount /media/stick
systemctl stop kubelet containerd
[ $failed = 0 ] || { snap changes; journalctl --no-pager -u snapd -u 'snap.edge*' -u kubelet -u containerd | tail -n 120; }
exit $failed
