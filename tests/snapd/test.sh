# Runs as root in a tree of tests/snapd/tree, beside edge.snap (the snap) and edge-2.snap (the next revision of it). Says one line
# for each thing that was looked at; ends with 1 if one was not as it should be. A file `slow` beside it: the processor is emulated,
# everything may take twelve times as long.
. ./said.sh
slow=1
[ ! -e slow ] || slow=12
patience=$((5 * slow))
# What the file says, what the running daemon says of itself, and whether it listens there.
config() { /snap/bin/edge config get "$1"; }
written() { [ "$(config "$1")" = "$2" ]; }
offline_mode() { /snap/bin/edge status -o json | grep -qx "  \"offlineMode\": $1,"; }
answers() { bash -c "exec 3<>/dev/tcp/127.0.0.1/$1"; }
pid() { systemctl show -p MainPID --value snap.edge.daemon.service; }
is_active() { systemctl is-active -q snap.edge.daemon.service; }
common=/var/snap/edge/common
# What a snap may not leave behind: everything but snapd's own places, logs and what is mounted.
host() {
    find /etc /usr /opt /root /home /srv /var -xdev \( -path /var/lib/snapd -o -path /var/log -o -path /var/cache -o -path /var/tmp \
        -o -path '/var/lib/systemd' -o -path /root/snap \) -prune -o \( -type f -o -type l \) \
        -printf '%p %s %m %l\n' | sort
    find /etc/kubernetes /var/lib/kubelet -type f -exec cksum {} +
}
# What snapd knows of the snap's health, in one line; it has `status: unknown` where no hook ever told it.
health() { snap info edge --verbose 2>/dev/null | sed -n '/^health:/,/^[a-z]/p' | tr -s ' \t\n' ' '; }
refused() { # refused WHAT LINE KEY=VALUE...
    what=$1 line=$2
    shift 2
    try snap set edge "$@"
    is "$what: exit code" "$code" 1
    is "$what: one line" "$out" "error: cannot perform the following tasks:
- Run configure hook of \"edge\" snap (run hook \"configure\": edge: $line)"
}

snap wait system seed.loaded
mkdir -p /etc/containerd /etc/kubernetes /var/lib/kubelet/pki
cp kubeadm.conf /etc/kubernetes/kubelet.conf
pki=/var/lib/kubelet/pki
cp rotated.pem $pki/kubelet-client-2026.pem
# As kubelet links: by the whole path, which the snap does not see.
ln -s $pki/kubelet-client-2026.pem $pki/kubelet-client-current.pem
chmod 600 /etc/kubernetes/kubelet.conf /var/lib/kubelet/pki/*
host >/run/host-before

echo "# install"
try snap install ./edge.snap
is "a snap without a signature needs --dangerous" "$code" 1
try snap install --dangerous ./edge.snap
is "install" "$code" 0
[ "$code" = 0 ] || { echo "$out"; snap tasks --last=install; }
is "the daemon runs" "$(systemctl is-active snap.edge.daemon.service)" active
has "it is well" "$(health)" "health: status: okay "
is "defaults are there" "$(snap get edge offline-mode)" true
is "defaults are those in force" "$(snap get edge cloud.probe-interval)" "$(config cloud.probe-interval)"
is "the state is the snap's" "$(snap get edge state-dir)" $common
soon "the installed configuration is in force" test -e $common/edge.toml
is "the control socket is root's alone" "$(stat -c %a $common/run/edge.sock)" 600
try /snap/bin/edge status -o json
is "edge status" "$code" 0
soon "offline mode is on" offline_mode true
try snap run edge.edge --version
has "the command" "$out" "edge "

echo "# configuration"
before=$(pid)
began=$(now)
try snap set edge offline-mode=false
is "set" "$code" 0
set_took=$(since "$began")
soon "the daemon has it within a second" offline_mode false
[ "${took:-9999}" -lt $((1000 * slow)) ] || bad "the daemon has it within a second" "$took ms"
is "the same process" "$(pid)" "$before"
is "snapd shows it" "$(snap get edge offline-mode)" false
try snap set edge offline-mode=true registry.listen=127.0.0.1:5077 cloud.probe-interval=11s
soon "several at once" answers 5077
soon "several at once, another" offline_mode true
soon "several at once, the file" written cloud.probe-interval 11s
refused "a bad value" 'key `offline-mode` is `maybe`, expected `true` or `false`' cloud.probe-interval=12s offline-mode=maybe
refused "an unknown key" 'unknown key `colour` hint: `edge config sample` lists all keys' colour=red
refused "an unknown key in a section" 'unknown key `cloud.probe-intervall` hint: did you mean `cloud.probe-interval`?' cloud.probe-intervall=5s
refused "a bad address" 'key `proxy.listen` is `0.0.0.0:6445`, expected a loopback address and port such as `127.0.0.1:6445`' proxy.listen=0.0.0.0:6445
refused "a wrong type" 'key `state-dir` is `7`, expected an absolute path' state-dir=7
is "after a refusal snapd has the old value" "$(snap get edge cloud.probe-interval)" 11s
is "after a refusal the file has the old value" "$(config cloud.probe-interval)" 11s
is "after a refusal nothing waits" "$(ls -A $common | grep -c prepared)" 0
try snap set edge kubelet.offline-mode=false
is "the older name" "$code" 0
soon "the older name is the key" offline_mode false
is "snapd shows the key" "$(snap get edge offline-mode)" false
try snap get edge kubelet
is "and not the older name" "$code" 1
refused "both names at odds" 'key `kubelet.offline-mode` is `false`, but `offline-mode` is `true` hint: they are two names of one key, set one of them' offline-mode=true kubelet.offline-mode=false
stamp=$(stat -c %y $common/edge.toml)
try snap set edge offline-mode=false
is "nothing changed" "$code" 0
is "nothing changed, nothing written" "$(stat -c %y $common/edge.toml)" "$stamp"
try snap unset edge cloud.probe-interval
soon "unset is the default" written cloud.probe-interval 5s
try snap unset edge registry.listen
soon "for the daemon too" answers 5000
is "snapd shows the default" "$(snap get edge cloud.probe-interval)" 5s
is "still the same process" "$(pid)" "$before"
snap set edge cloud.probe-interval=13s
soon "written" written cloud.probe-interval 13s
# snapd shows what the daemon takes at its next start only.
waits='`cloud.probe-interval`: from the next start, `snap restart edge.daemon`'
is "snapd shows what waits for a restart" "$(snap get edge cloud.probe-interval)" 13s
has "and the status says that it waits" "$(/snap/bin/edge status)" "$waits"
told() { health | grep -q "$1"; }
soon $((15 * slow)) "snapd's health says that it waits" told 'status: blocked message: cloud.probe-interval waits for `snap restart edge.daemon`'
try snap stop edge.daemon
try snap set edge cloud.probe-interval=14s
is "set without a daemon" "$code" 0
refused "a bad value without a daemon" 'key `offline-mode` is `2`, expected `true` or `false`' offline-mode=2
is "not in force yet" "$(config cloud.probe-interval)" 13s
snap start edge.daemon
soon "in force from the start" written cloud.probe-interval 14s

soon "the daemon answers after the start" /snap/bin/edge status
case $(/snap/bin/edge status) in *"$waits"*) bad "nothing waits after the start" ;; *) ok "nothing waits after the start" ;; esac
soon $((15 * slow)) "snapd's health says that it is well again" told 'status: okay'

echo "# two at once"
# snapd makes one change of a snap at a time, and ends a second one with 10: try again.
set_in_turn() {
    until snap set edge "$1" >/dev/null 2>&1; do
        code=$?
        [ $code = 10 ] || return $code
        sleep 0.1
    done
}
at_once() { # at_once KEY=VALUE KEY=VALUE; what came of them is in $codes
    set_in_turn "$1" &
    one=$!
    set_in_turn "$2" &
    two=$!
    wait $one
    codes=$?
    wait $two
    codes="$codes $?"
}
nothing_waits() { [ ! -e $common/edge.toml.prepared ]; }
at_once bundle.gateway=ship-1 bundle.fleet=north
is "of two keys both are taken" "$codes" "0 0"
is "and snapd has both" "$(snap get edge bundle.gateway) $(snap get edge bundle.fleet)" "ship-1 north"
soon "one is in force" written bundle.gateway ship-1
soon "so is the other" written bundle.fleet north
at_once bundle.gateway=ship-2 bundle.gateway=ship-3
is "of one key both values are taken" "$codes" "0 0"
soon "the one that snapd has is in force" written bundle.gateway "$(snap get edge bundle.gateway)"
at_once bundle.gateway=ship-4 offline-mode=maybe
is "what is wrong is refused, what is good is not" "$codes" "0 1"
soon "the good one is in force" written bundle.gateway ship-4
soon "nothing waits any more" nothing_waits
snap unset edge bundle.gateway bundle.fleet

echo "# interfaces"
for plug in containerd containerd-config kubelet; do
    try snap connect edge:$plug
    is "connect $plug" "$code" 0
    [ "$code" = 0 ] || echo "$out"
done
try snap disconnect edge:containerd-config
is "disconnect what is not in use" "$code" 0

echo "# refresh"
try snap install --dangerous ./edge-2.snap
is "refresh" "$code" 0
[ "$code" = 0 ] || { echo "$out"; snap tasks --last=refresh; }
has "the next revision" "$(snap list edge)" " x2 "
is "configuration is kept" "$(snap get edge cloud.probe-interval)" 14s
soon "and in force" written cloud.probe-interval 14s
has "it is well" "$(health)" "health: status: okay "
has "connections are kept" "$(snap connections edge)" "edge:kubelet"
is "the daemon runs" "$(systemctl is-active snap.edge.daemon.service)" active
cp $common/layout.json /run/layout.json
layout_99() { echo '{"layout":99,"version":"9.0.0"}' >$common/layout.json; }
layout_99
try snap revert edge
is "no revert to a revision that does not know the layout" "$code" 1
has "with its reason" "$out" 'the state has layout 99 of edge 9.0.0'
has "the next revision stays" "$(snap list edge)" " x2 "
cp /run/layout.json $common/layout.json
soon "its daemon runs on" /snap/bin/edge status
try snap revert edge
is "revert" "$code" 0
has "the first revision again" "$(snap list edge)" " x1 "
is "configuration is kept over revert" "$(snap get edge cloud.probe-interval)" 14s
soon "the daemon runs after revert" is_active
layout_99
before=$(pid)
try snap install --dangerous ./edge-2.snap
is "a post-refresh that fails fails the refresh" "$code" 1
has "with its reason" "$out" 'the state has layout 99 of edge 9.0.0'
has "it is rolled back" "$(snap list edge)" " x1 "
is "configuration is kept over the rollback" "$(snap get edge cloud.probe-interval)" 14s
soon "the daemon runs after the rollback" is_active
soon "with the old configuration" written cloud.probe-interval 14s
cp /run/layout.json $common/layout.json
snap stop edge.daemon
# As a newer revision left it whose refresh was undone after its configure hook.
sed -i 's/^offline-mode/colour = "red"\n&/' $common/edge.toml
try config cloud.probe-interval
is "a newer revision's key is not known" "$code" 2
snap start edge.daemon
soon "the daemon goes back to what snapd has" written cloud.probe-interval 14s
snap stop edge.daemon
(exec 9<>$common/lock && flock -n 9 && printf 'edge bundle import (pid 7)' >&9 && exec sleep 60) &
holder=$!
soon "another command holds the state" grep -q import $common/lock
try snap install --dangerous ./edge-2.snap
is "no refresh while a command holds the state" "$code" 1
has "with the command's name" "$out" 'edge bundle import (pid 7) is running'
kill $holder
wait $holder 2>/dev/null
snap start edge.daemon
soon "the daemon runs again" offline_mode false

echo "# a node that has joined"
snap connect edge:containerd-config
snap stop edge.daemon
try /snap/bin/edge join --from /etc/kubernetes/kubelet.conf --kubelet-kubeconfig /etc/kubernetes/kubelet.conf
is "join" "$code" 0
[ "$code" = 0 ] || echo "$out"
has "join says what is left" "$out" "snap restart edge.daemon"
is "snapd knows what join wrote" "$(snap get edge cloud.kubeconfig)" "$(config cloud.kubeconfig)"
has "kubelet's way is to edge" "$(cat /etc/kubernetes/kubelet.conf)" "https://127.0.0.1:6445"
is "kubelet's certificate is out of the way" "$(ls /var/lib/kubelet/pki)" "kubelet-client-2026.pem
kubelet-client-current.pem.before-edge"
# Kubelet starts, and keeps what edge signed for it.
for part in certificate key; do
    sed -n "s/^ *client-$part-data: //p" /etc/kubernetes/kubelet.conf | base64 -d
done >$pki/kubelet-client-2027.pem
ln -s $pki/kubelet-client-2027.pem $pki/kubelet-client-current.pem
try /snap/bin/edge join --from /etc/kubernetes/kubelet.conf
is "join again" "$code" 0
is "what edge signed stays with kubelet" "$(readlink $pki/kubelet-client-current.pem)" $pki/kubelet-client-2027.pem
is "and the cloud's out of its way" "$(readlink $pki/kubelet-client-current.pem.before-edge)" $pki/kubelet-client-2026.pem
rm $pki/kubelet-client-2027.pem $pki/kubelet-client-current.pem
# A strict snap may not change snapd's folder itself; what is secret is within, each file for root alone.
is "the folder is as snapd made it" "$(stat -c '%U %a' $common)" "root 755"
is "what is secret is root's alone" "$(find $common -type f -perm /077 \( -name 'cache.db*' -o -name '*.key' -o -name 'pods.json' \
    -o -path '*/cloud/*' -o -path '*/backup/*' -o -name 'cloud.kubeconfig' \) )" ""
snap start edge.daemon
soon "the proxy listens" answers 6445
try snap set edge cloud.probe-interval=15s
is "set on a node that has joined" "$code" 0
soon "it is written" written cloud.probe-interval 15s
for mode in true false; do
    try snap set edge offline-mode=$mode
    soon "the proxy has it within a second" offline_mode $mode
    [ "${took:-9999}" -lt $((1000 * slow)) ] || bad "the proxy has it within a second" "$took ms"
done
is "and the node is still joined" "$(config cloud.kubeconfig)" $common/cloud.kubeconfig
try snap disconnect edge:kubelet
is "kubelet's files are not disconnected while its credentials are here" "$code" 1
has "with the reason" "$out" "could not be given back any more"

echo "# disabled and enabled"
kept() { cat /etc/kubernetes/kubelet.conf $common/cloud.kubeconfig $common/edge.toml $common/join.json | cksum; }
before=$(kept)
try snap disable edge
is "disable" "$code" 0
if is_active; then bad "the daemon has stopped"; else ok "the daemon has stopped"; fi
is "kubelet's way and what was joined stay" "$(kept)" "$before"
try snap enable edge
is "enable" "$code" 0
soon "the proxy listens again" answers 6445
is "nothing is lost" "$(kept)" "$before"
is "snapd has the values" "$(snap get edge cloud.probe-interval)" 15s
is "and the connections" "$(snap connections edge | awk '$2 == "edge:containerd-config" { print $4 }')" manual

echo "# health"
snap stop --disable edge.daemon
try snap install --dangerous ./edge-2.snap
is "refresh of what does not run" "$code" 0
has "it is not well" "$(health)" 'health: status: error message: "the edge daemon does not answer'
has "which the list shows" "$(snap list edge)" error
snap start --enable edge.daemon
soon "the daemon runs again" offline_mode false

echo "# a snapshot"
# The last as on another disk.
mkdir -p $common/store/blobs/sha256/00 $common/store/uploads $common/git $common/disk/edge/store/blobs
for file in store/blobs/sha256/00/0000 store/uploads/1 git/pack disk/edge/store/blobs/1; do head -c 4000000 /dev/urandom >$common/$file; done
try snap save edge
is "save" "$code" 0
[ "$code" = 0 ] || echo "$out"
bytes=$(cat /var/lib/snapd/snapshots/*_edge_*.zip | wc -c)
if [ "$bytes" -gt 100 ] && [ "$bytes" -lt 2000000 ]; then ok "images are not in it"; else bad "images are not in it" "$bytes bytes"; fi
set=$(snap saved edge | awk 'END { print $1 }')
before=$(cat $common/edge.toml $common/join.json $common/pki/ca.key | cksum)
snap stop edge.daemon
try snap restore "$set" edge
is "restore" "$code" 0
is "settings, keys and what was joined are in it" "$(cat $common/edge.toml $common/join.json $common/pki/ca.key | cksum)" "$before"
is "and no more" "$(ls -d $common/cache.db* $common/store/blobs $common/git $common/disk/edge/store/blobs 2>/dev/null)" ""
snap start edge.daemon
soon "the proxy listens after it" bash -c 'exec 3<>/dev/tcp/127.0.0.1/6445'
soon "and the daemon answers" /snap/bin/edge status
snap forget "$set" >/dev/null

echo "# figures"
echo "figure snap-set-ms $set_took"
# The hook as snapd runs it, without snapd's own work around it: nothing has changed, so nothing is written.
best=9999
for i in 1 2 3 4 5 6 7; do
    began=$(date +%s%N)
    SNAP_NAME=edge SNAP_COMMON=$common SNAP_COOKIE=$(cat /var/lib/snapd/cookie/snap.edge) /snap/edge/current/meta/hooks/configure || bad "the hook by hand"
    took=$((($(date +%s%N) - began) / 1000000))
    [ $took -ge $best ] || best=$took
done
echo "figure configure-nothing-changed-ms $best"
# A debug build is slower; the target is that of what ships.
limit=30
[ ! -e quick ] || limit=300
limit=$((limit * slow))
[ $best -lt $limit ] || bad "nothing changed takes under $limit ms" "$best ms"

echo "# removed with a snapshot, and installed again"
try snap remove edge
is "remove" "$code" 0
host >/run/host-after
is "the host is as it was" "$(diff /run/host-before /run/host-after)" ""
set=$(snap saved edge | awk 'END { print $1 }')
try snap install --dangerous ./edge.snap
is "install" "$code" 0
is "it begins anew" "$(snap get edge cloud.probe-interval)" 5s
soon "its daemon answers" /snap/bin/edge status
snap stop edge.daemon
try snap restore "$set" edge
is "restore" "$code" 0
snap start edge.daemon
soon "the daemon answers after it" /snap/bin/edge status
is "snapd has the values again" "$(snap get edge cloud.probe-interval)" 15s
soon "which are in force" written cloud.probe-interval 15s
try snap get edge cloud.kubeconfig
is "the cloud that was left is not joined again" "$code" 1
is "nor named" "$(grep -c '^kubeconfig' $common/edge.toml)" 0

echo "# remove"
try snap remove --purge edge
is "remove" "$code" 0
[ "$code" = 0 ] || echo "$out"
tasks=$(snap tasks --last=remove)
case $tasks in *"ignoring failure"*) bad "the remove hook ended well" "$tasks" ;; *) ok "the remove hook ended well" ;; esac
is "nothing of the snap is left" "$(ls -d /var/snap/edge /snap/edge 2>/dev/null)" ""
host >/run/host-after
is "the host is as it was" "$(diff /run/host-before /run/host-after)" ""
echo "# the classic snap"
try snap install --dangerous --classic ./edge-classic.snap
is "install" "$code" 0
[ "$code" = 0 ] || echo "$out"
soon "its configuration is in force" test -e $common/edge.toml
try snap set edge offline-mode=false
is "set" "$code" 0
soon "the daemon has it" offline_mode false
try snap remove --purge edge
is "remove" "$code" 0
host >/run/host-after
is "the host is as it was" "$(diff /run/host-before /run/host-after)" ""
[ $failed = 0 ] || { snap changes; journalctl --no-pager -u snapd -u 'snap.edge*' | tail -n 60; }
exit $failed
