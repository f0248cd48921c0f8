# Run a command in the system root of another architecture, in a mount namespace of its own.
# $1 the root, $2 the board's files, $3 edgeml's packages, $4 the bundle, $5 qemu; the rest is the command in the root.
# The board's /proc/cpuinfo and CPU list in /sys hide the host's: from them the runtimes choose kernels.
set -e
mount --rbind /proc "$1/proc"
mount --bind "$2/cpuinfo" "$1/proc/cpuinfo"
mount --bind "$2/sys" "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$3/edgeml_core" "$1/edgeml/edgeml_core"
mount --bind "$3/edgeml_runtime" "$1/edgeml/edgeml_runtime"
mount --bind "$4" "$1/bundle"
mount --bind "$5" "$1/qemu"
root=$1
shift 5
exec chroot "$root" "$@"
