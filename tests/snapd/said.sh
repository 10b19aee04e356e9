# What the scripts beside this one say of each thing that they look at, for any sh. Sourced; a script ends with `exit $failed`.
failed=0
now() { cut -d ' ' -f 1 /proc/uptime; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%d", (b - a) * 1000 }'; }
ok() { echo "ok   $1"; }
bad() {
    echo "FAIL $1"
    [ -z "${2:-}" ] || printf '     %s\n' "$2"
    failed=1
}
is() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "expected <$3>, got <$2>"; fi; }
has() { case $2 in *"$3"*) ok "$1" ;; *) bad "$1" "expected <$3> in <$2>" ;; esac }
try() {
    out=$("$@" 2>&1)
    code=$?
}
# soon [SECONDS] WHAT COMMAND...: within as many seconds, or $patience. `took` is how long it took, in milliseconds.
patience=5
soon() {
    most=$patience
    case $1 in *[!0-9]*) ;; *) most=$1 && shift ;; esac
    what=$1 began=$(now)
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$(since "$began")" -gt $((most * 1000)) ]; then bad "$what" "not within $most s"; return; fi
        sleep 0.02
    done
    took=$(since "$began")
    ok "$what"
}
