#!/usr/bin/env bats
#
# Roots as people have them run, from a registry: what Docker lets the programs in them
# do they may do here. A Debian root with apt-get, nginx and postgres takes minutes, and
# has a suite of its own: test/debian/debian.bats.

load helpers
load containers
load hostile

setup_file() { build ping; }

setup() {
	common_setup
	busybox_root "$W/root"
	mkdir -p "$W/root/srv/www"
	echo fine >"$W/root/srv/www/health"
	printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'web:x:33:33::/srv:/bin/sh' >"$W/root/etc/passwd"
	printf '%s\n' 'root:x:0:' 'web:x:33:' >"$W/root/etc/group"
	cp "$BATS_FILE_TMPDIR/ping" "$W/root/bin/own-ping"
	start_registry
	push "$REG/busybox:1" "$W/root" --cmd sh
	start_daemon
}

# of_image BOX SCRIPT [CONFIG…]: a box of the image; starts nothing.
of_image() {
	local name=$1 text=$2
	shift 2
	script "$name" "image: docker://$REG/busybox:1" "runtime: $RT" "$@" <<<"$text"
}

users() {
	local text='su web -c "id -un; echo of \$HOME" && mkdir /srv/a && chown web:web /srv/a && stat -c "%U:%G" /srv/a
touch /srv/x && chmod 4755 /srv/x && chroot / true && echo changed; ping -c 1 127.0.0.1 | grep -c "1 packets received"'
	of_image "$RT-1" "$text"
	ctl "$RT-1" start
	rd "$RT-1/wait/stopped"
	rd "$RT-1/log"
	line web
	line 'of /srv'
	line web:web
	line changed
	line 1
	of_image "$RT-2" "$text" 'security: {profile: strict}'
	ctl "$RT-2" start
	rd "$RT-2/wait/stopped"
	rd "$RT-2/log"
	no_line '^(web|of|changed|1)'
	ok rmdir "$MNT/boxes/$RT-1" "$MNT/boxes/$RT-2"
}
@test "su, chown, chroot and ping work in a container, and not in a strict one" { both users; }

ports() {
	local profile
	for profile in default strict; do
		of_image "$RT-$profile" 'id -u; own-ping; exec httpd -f -p 80 -h /srv/www' 'user: web' "security: {profile: $profile}" \
			'health_check: {http: "http://localhost:80/health", interval: 100ms, retries: 1}'
		ctl "$RT-$profile" start
		becomes "$RT-$profile" health healthy
		rd "$RT-$profile/log"
		line 33
		line 'ping answered as 33'
		ctl "$RT-$profile" kill
		ok rmdir "$MNT/boxes/$RT-$profile"
	done
}
@test "who is not root has port 80 of the box's own network, and may ping" {
	local before
	before=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range)
	both ports
	assert "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range)" = "$before" "the host's own"
}

init_of_its_own() {
	# As s6-overlay does, it wants to be pid 1 and reaps what is left to it.
	of_image "$RT-i" '[ $$ = 1 ] || { echo "can only run as pid 1"; exit 100; }; echo first; trap "exit 0" TERM; while :; do sleep 0.1; done' "init: $1"
	ctl "$RT-i" start
}
own_init() {
	init_of_its_own true
	rd "$RT-i/wait/stopped"
	assert "$out" = 100 "code with an init of boxlite's"
	ok rmdir "$MNT/boxes/$RT-i"
	init_of_its_own false
	logs "$RT-i" first
	ctl "$RT-i" stop
	is "$RT-i" exit_code 0
	ok rmdir "$MNT/boxes/$RT-i"
}
@test "an image with an init of its own runs with init: false" { both own_init; }
