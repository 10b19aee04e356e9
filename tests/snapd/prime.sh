# Run once in the new tree: snapd seeds itself and gets its empty system snaps, so that a test need not.
snap wait system seed.loaded
snap set system store.access=offline
snap install --dangerous /var/lib/payload/snapd.snap || exit 1
snap install --dangerous /var/lib/payload/bare.snap || exit 1
snap install --dangerous /var/lib/payload/core24.snap || exit 1
journalctl --rotate -q
journalctl --vacuum-size=1 -q
truncate -s 0 /etc/machine-id
