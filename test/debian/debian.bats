#!/usr/bin/env bats
#
# A Debian root made by debootstrap, pulled from a registry on loopback. What people
# install in a container and run there installs and starts: apt-get, adduser, su, sudo,
# nginx, PostgreSQL. It takes some minutes and a Debian mirror, so it is none of the suites
# that scripts/test runs by itself:
#
#   scripts/test bats test/debian/debian.bats

load ../helpers
load ../containers

export BATS_TEST_TIMEOUT=900

setup_file() {
	command -v debootstrap >/dev/null || apt-get -qq -y --no-install-recommends install debootstrap
	local suite
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	debootstrap --variant=minbase "$suite" "$BATS_FILE_TMPDIR/root" >"$BATS_FILE_TMPDIR/debootstrap.log" 2>&1 || {
		tail -n 20 "$BATS_FILE_TMPDIR/debootstrap.log" >&2
		return 1
	}
	rm -rf "$BATS_FILE_TMPDIR/root/var/cache/apt/archives"/*.deb
}

setup() {
	common_setup
	start_registry
	T=300
	push "$REG/debian:1" "$BATS_FILE_TMPDIR/root" --cmd bash
	start_daemon
}

# inside BOX SCRIPT [CONFIG…]: runs a script in a box of the image to its end; out is its log.
inside() {
	local name=$1 text=$2
	shift 2
	{ ! t test -e "$MNT/boxes/$name" || ok rmdir "$MNT/boxes/$name"; } 2>/dev/null
	run_script "$name" "image: docker://$REG/debian:1" "runtime: $RT" "$@" <<<"$text"
}

# again BOX SCRIPT [CONFIG…]: as inside, on what the box has by now.
again() {
	local name=$1 text=$2
	shift 2
	configure "$name" <<<"$(
		printf '%s\n' 'command:' '  - /bin/sh' '  - -c' '  - |'
		printf '    %s\n' "${text//$'\n'/$'\n'    }"
		printf '%s\n' "image: docker://$REG/debian:1" "runtime: $RT" "$@"
	)"
	ctl "$name" start
}

installed() {
	# Packages come over the host's network; what is started is in the box's own.
	T=600 inside "$RT-d" 'set -ex
exec 2>&1
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y --no-install-recommends install nginx-light postgresql adduser sudo iputils-ping
adduser --disabled-password --gecos "" alice
echo "alice ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/alice
su alice -c "sudo id -un"
echo installed' 'network: host'
	line installed
	line root

	again "$RT-d" 'su alice -c "ping -c 1 127.0.0.1" && echo pinged
pg_ctlcluster $(ls /usr/lib/postgresql) main start && echo "select 40 + 2 as n" | su postgres -c "psql -At"
exec nginx -g "daemon off;"' 'health_check: {http: "http://localhost/", interval: 200ms, retries: 1}'
	becomes "$RT-d" health healthy
	rd "$RT-d/log"
	line pinged
	line 42
	ctl "$RT-d" stop
	is "$RT-d" exit_code 0
	T=60 ok rmdir "$MNT/boxes/$RT-d"
	await "its files to be removed" 60 sh -c '[ -z "$(ls -A "$1")" ]' sh "$STATE/trash"
}
@test "apt-get, adduser, su and sudo work in a Debian container; nginx and PostgreSQL start" { both installed; }
