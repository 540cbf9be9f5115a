# shellcheck shell=bash
#
# Boxes of engine container. A function of a suite that starts some is run with each OCI
# runtime, by both; $RT is its name.

# make_rootfs: $ROOT, a root of busybox alone.
make_rootfs() {
	ROOT=$W/root
	mkdir -p "$ROOT"/{bin,etc,proc,sys,dev,srv}
	cp "$(command -v busybox)" "$ROOT/bin/busybox"
	"$ROOT/bin/busybox" --install "$ROOT/bin"
	printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'web:x:33:34::/srv:/bin/sh' >"$ROOT/etc/passwd"
	printf '%s\n' 'root:x:0:' 'web:x:34:' 'extra:x:35:web' >"$ROOT/etc/group"
	chmod 0755 "$ROOT"
}

# The security profile of a container whose test does not say another.
PROFILE=default

# in_box BOX SCRIPT [CONFIG…]: runs a script in a container to its end; out is its log.
in_box() {
	local name=$1 text=$2
	shift 2
	contain "$@"
	run_script "$name" "${config[@]}" <<<"$text"
}

# up_box BOX SCRIPT [CONFIG…]: starts one that goes on.
up_box() {
	local name=$1 text=$2
	shift 2
	contain "$@"
	script "$name" "${config[@]}" <<<"$text"
	ctl "$name" start
}

# contain [CONFIG…]: sets config to that of a container, with $PROFILE.
contain() {
	local line security="security: {profile: $PROFILE}"
	config=("rootfs: $ROOT" "runtime: $RT")
	for line; do
		if [[ $line == 'security: {'* ]]; then
			security=$line
			[[ $line == *profile:* ]] || security="security: {profile: $PROFILE, ${line#security: \{}"
		else
			config+=("$line")
		fi
	done
	config+=("$security")
}

# line TEXT: out has that line.
line() { grep -qxF -- "$1" <<<"$out" || fail "no line $1 in: $out"; }

no_line() { ! grep -qE -- "$1" <<<"$out" || fail "a line like $1 in: $out"; }

# both TEST: with each runtime.
both() {
	for RT in crun runc; do
		echo "# runtime $RT"
		"$1"
	done
}
