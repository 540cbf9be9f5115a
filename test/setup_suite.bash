# shellcheck shell=bash
#
# Runs once before all suites: says what is missing, and builds the binaries
# unless BOXLITE_BIN names a directory that holds them.

setup_suite() {
	local tool missing=()
	[[ $EUID -eq 0 ]] || {
		echo "the suites mount filesystems and make namespaces: run them as root" >&2
		return 1
	}
	[[ -c /dev/fuse ]] || {
		echo "there is no /dev/fuse on this machine" >&2
		return 1
	}
	for tool in busybox dash gcc perl promtool python3 rsync setpriv setsid tar timeout tree vim zstd; do
		type -P "$tool" >/dev/null || missing+=("$tool")
	done
	((${#missing[@]} == 0)) || {
		echo "missing: ${missing[*]} (scripts/test installs them)" >&2
		return 1
	}

	# A hung mount is freed through fusectl, see free_mount.
	[[ -d /sys/fs/fuse/connections ]] &&
		! grep -q ' /sys/fs/fuse/connections ' /proc/self/mountinfo &&
		mount -t fusectl none /sys/fs/fuse/connections

	if [[ -z ${BOXLITE_BIN:-} ]]; then
		export BOXLITE_BIN=$BATS_RUN_TMPDIR/bin
		(cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.." &&
			CGO_ENABLED=0 go build -ldflags "-X main.commit=bats" -o "$BOXLITE_BIN/" ./cmd/... ./test/registry) >&2
	fi
	local bin
	for bin in boxlited boxlite-shim registry; do
		[[ -x $BOXLITE_BIN/$bin ]] || {
			echo "$BOXLITE_BIN has no $bin" >&2
			return 1
		}
	done
}

teardown_suite() { :; }
