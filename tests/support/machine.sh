# Run by bash. The first process of a test machine, in fresh mount, network, host name, IPC and process namespaces.
# It lives until its standard input ends, and the kernel ends every other process of the machine with it.
# Environment: NAME, DISK (a folder that survives a reboot).
set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
hostname "$NAME"
ip link set lo up
# The machine's own /etc and /var, over the host's.
for dir in etc var; do
    mkdir -p "$DISK/$dir/upper" "$DISK/$dir/work"
    mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$DISK/$dir/upper,workdir=$DISK/$dir/work" "/$dir"
done
# An overlay cannot hold the layers of another.
for dir in containerd kubelet; do
    mkdir -p "$DISK/$dir" "/var/lib/$dir"
    mount --bind "$DISK/$dir" "/var/lib/$dir"
done
# /var/run is a link to /run on Debian; resolv.conf may be a link to the host's.
rm -f /etc/resolv.conf
echo "nameserver 10.250.0.1" >/etc/resolv.conf
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$NAME" >/etc/hosts
echo "$NAME" >/etc/hostname
[ -e "$DISK/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$DISK/machine-id"
cp "$DISK/machine-id" /etc/machine-id
# Each start is a boot of its own to whoever looks.
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
mount --make-rshared /
echo ready
while read -r _; do :; done
