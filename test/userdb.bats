#!/usr/bin/env bats
#
# Who a user is: on the host, and in a root as the box sees it.

load helpers
load containers

setup() {
	common_setup
	make_rootfs
	start_daemon
}

E() { echo "$MNT/boxes/$1/exec/$2"; }

# exec_as BOX USER SCRIPT: out is what it says, as that user.
exec_as() {
	ok mkdir "$(E "$1" e)"
	feed sh -c 'exec cat >"$1"' sh "$(E "$1" e)/cmd" <<<"{command: [sh, -c, '$3'], user: '$2'}"
	((rc == 0)) || fail "refused: $err; $(t cat "$MNT/boxes/$1/last_error")"
	rd "$1/exec/e/stdout"
	local said=$out
	ok rmdir "$(E "$1" e)"
	out=$said
}

# failed BOX TEXT: its start fails, and says so.
failed() {
	try "${ECHO[@]}" "$MNT/boxes/$1/ctl" start
	((rc != 0)) || fail "$1 was started"
	rd "$1/last_error"
	assert "$out" has "$2" "last_error of $1"
}

WHO='echo "$(id -u):$(id -g) $(id -G) $HOME"'

# store: the user database is in a store, as Nix has it, and known by absolute links.
store() {
	mkdir -p "$1/nix/store/1-users" "$1/etc"
	printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'web:x:33:34::/srv:/bin/sh' >"$1/nix/store/1-users/passwd"
	printf '%s\n' 'root:x:0:' 'web:x:34:' 'extra:x:35:web' >"$1/nix/store/1-users/group"
}
links() {
	rm -f "$1/etc/passwd" "$1/etc/group"
	ln -s /nix/store/1-users/passwd "$1/etc/passwd"
	ln -s ../../../nix/store/1-users/group "$1/etc/group"
}

through_links() {
	local overlay
	for overlay in true false; do
		in_box "$RT-$overlay" "$WHO" 'user: web' "overlay: $overlay"
		line '33:34 34 35 /srv'
		ok rmdir "$MNT/boxes/$RT-$overlay"
	done
	up_box "$RT-x" 'echo up; sleep 1000' 'user: "33"'
	exec_as "$RT-x" web "$WHO"
	line '33:34 34 35 /srv'
	exec_as "$RT-x" root:extra "$WHO"
	line '0:35 35 /root'
	ctl "$RT-x" kill
}
@test "users are found where absolute links lead in the root, by a start and by an exec" {
	store "$ROOT"
	links "$ROOT"
	both through_links
}

@test "users are found where the link is in one layer of an image and the file in another, and where the box has changed it" {
	RT=crun
	store "$W/below"
	cp -a "$ROOT/." "$W/below"
	echo 'web:x:98:99::/hidden:/bin/sh' >"$W/below/etc/passwd"
	mkdir -p "$W/above/etc"
	links "$W/above"
	push "oci:$W/img" "$W/below" "$W/above" --user web
	script i "image: oci:$W/img" <<<"$WHO"
	ctl i start
	rd i/wait/stopped
	rd i/log
	line '33:34 34 35 /srv'
	configure i <<<"{image: 'oci:$W/img', user: root, command: [sh, -c, 'rm /etc/passwd; echo web:x:44:45::/new: >/etc/passwd'], security: {capabilities: {add: [DAC_OVERRIDE]}}}"
	ctl i start
	rd i/wait/stopped
	configure i <<<"{image: 'oci:$W/img', command: [sh, -c, '$WHO']}"
	ctl i start
	rd i/wait/stopped
	rd i/log
	line '44:45 45 35 /new'
}

@test "a user database that is mounted is the one that counts" {
	RT=crun
	printf '%s\n' 'web:x:55:56::/given:/bin/sh' >"$W/passwd"
	chmod 0644 "$W/passwd"
	in_box m "$WHO" 'user: web' "mounts: [{source: $W/passwd, target: /etc/passwd, readonly: true}]"
	line '55:56 56 35 /given'
}

@test "what cannot be read is not taken for nobody, and what is not there is" {
	RT=crun
	rm "$ROOT/etc/passwd"
	in_box none "$WHO" 'user: "7"'
	line '7:0 0 /'
	mkfifo "$ROOT/etc/passwd"
	box fifo "$(printf '%s\n' 'command: [id]' "rootfs: $ROOT" 'user: "7"')"
	failed fifo 'user "7" of the container: /etc/passwd cannot be read: it is no regular file'
	rm "$ROOT/etc/passwd"
	box named "$(printf '%s\n' 'command: [id]' "rootfs: $ROOT" 'user: web')"
	failed named 'start: user "web" of the container: unknown user "web": /etc/passwd has none of that name'
	echo 'web:x:thirty:34::/:' >"$ROOT/etc/passwd"
	failed named 'user "web" of the container: /etc/passwd: line 1: its uid is "thirty"'
	echo 'web:x:33:34::/:' >"$ROOT/etc/passwd"
	rm "$ROOT/etc/group"
	ln -s group "$ROOT/etc/group"
	failed named 'user "web" of the container: /etc/group cannot be read: too many levels of symbolic links'
}

home_of() {
	sleeper="command: [sleep, '1000']"
	box "$RT-set" "$(printf '%s\n' "$sleeper" 'env: {HOME: /conf}' "${CONFIG[@]}")"
	box "$RT-own" "$(printf '%s\n' "$sleeper" "${CONFIG[@]}")"
	ctl "$RT-set" start
	ctl "$RT-own" start
	exec_as "$RT-set" "$OTHER" 'echo $HOME'
	assert "$out" = /conf "HOME of an exec as another user, where the configuration sets it"
	exec_as "$RT-own" "$OTHER" 'echo $HOME'
	assert "$out" = "$HIS" "HOME of an exec as another user"
	# And so by the next daemon.
	restart_daemon
	exec_as "$RT-set" "$OTHER" 'echo $HOME'
	assert "$out" = /conf "HOME of an exec of the next daemon, where the configuration sets it"
	ctl "$RT-set" kill
	ctl "$RT-own" kill
}
@test "HOME of an exec is the box's where that has one, and else that of its user" {
	local RT CONFIG=() OTHER=nobody HIS=/nonexistent
	RT=host home_of
	CONFIG=("rootfs: $ROOT") OTHER=web HIS=/srv
	RT=crun home_of
	push "oci:$W/img" "$ROOT" --env HOME=/image
	CONFIG=("image: oci:$W/img")
	box image "$(printf '%s\n' "command: [sleep, '1000']" "${CONFIG[@]}")"
	ctl image start
	exec_as image web 'echo $HOME'
	assert "$out" = /image "HOME of an exec as another user, where the image sets it"
}

@test "a user whom only the host's name services know is asked of getent, and not for ever" {
	stop_daemon
	mkdir "$W/path"
	cat >"$W/path/getent" <<-'E'
		#!/bin/sh
		case "$1 $2" in
		"passwd ldap" | "passwd 4242") echo "ldap:x:4242:4243::/home/ldap:/bin/sh" ;;
		"initgroups ldap") echo "ldap 4243 4300" ;;
		"group people") echo "people:x:4300:" ;;
		"passwd slow") sleep 600 & sleep 600 ;;
		"passwd down") echo "no server" >&2; exit 9 ;;
		*) exit 2 ;;
		esac
	E
	chmod +x "$W/path/getent"
	printf '%s\n' 'passwd: files ldap' 'group: files ldap' >"$W/nsswitch"
	# Only this daemon, and who looks at its mount, see another nsswitch.conf.
	LAUNCH=(env "PATH=$W/path:$PATH" unshare -m --propagation private sh -c 'mount --bind "$0" /etc/nsswitch.conf && exec "$@"' "$W/nsswitch")
	t() { timeout -k 2 "${T:-10}" nsenter -m -t "$DAEMON" "$@"; }
	launch_daemon
	await "the daemon" 10 eval 't cat "$MNT/version" >/dev/null 2>&1'
	local user
	for user in ldap 4242 ldap:people 4244; do
		run_script "${user/:/-}" "user: '$user'" <<<"$WHO"
	done
	rd ldap/log
	line '4242:4243 4243 4300 /home/ldap'
	rd 4242/log
	line '4242:4243 4243 4300 /home/ldap'
	rd ldap-people/log
	line '4242:4300 4300 /home/ldap'
	rd 4244/log
	line '4244:4244 4244 /'
	box no "$(printf '%s\n' 'command: ["true"]' 'user: no-such-user')"
	failed no 'user "no-such-user": unknown user "no-such-user": /etc/passwd has none of that name, nor has a service of /etc/nsswitch.conf'
	box down "$(printf '%s\n' 'command: ["true"]' 'user: down')"
	failed down 'user "down": getent passwd down: exit status 9 no server'
	box slow "$(printf '%s\n' 'command: ["true"]' 'user: slow')"
	bg start nsenter -m -t "$DAEMON" "${ECHO[@]}" "$MNT/boxes/slow/ctl" start
	await "getent to be asked" 5 has slow status starting
	ctl slow kill
	becomes slow status stopped
	bg again nsenter -m -t "$DAEMON" "${ECHO[@]}" "$MNT/boxes/slow/ctl" start
	await "getent to be asked again" 5 has slow status starting
	await "getent to run" 5 pgrep -P "$DAEMON" -x getent
	local began=${EPOCHREALTIME/./}
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status of boxlited"
	assert "$(((${EPOCHREALTIME/./} - began) / 1000))" -lt 3000 "ms that the end took while getent was asked"
}
