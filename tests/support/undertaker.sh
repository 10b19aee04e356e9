# Run by bash. Removes what a test cluster leaves behind, once its test process has let go of this script's standard input.
# Arguments: the folder of the cluster, and the name of its control groups.
while read -r _; do :; done
dir=$1 group=$2
[ -n "$dir" ] && [ -n "$group" ] || exit 1
for _ in $(seq 50); do
    left=$(find /sys/fs/cgroup/ -maxdepth 3 -type d -name "$group" 2>/dev/null)
    [ -n "$left" ] || break
    for root in $left; do
        find "$root" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null
        find "$root" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    sleep 0.1
done
[ "${EDGE_TEST_KEEP:-}" ] || rm -rf --one-file-system "$dir"
