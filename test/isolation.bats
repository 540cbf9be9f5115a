#!/usr/bin/env bats
#
# What a box sees and what it does not, and that nothing of it outlives it.

load helpers

setup() {
	common_setup
	export BOXLITE_TEST_SECRET=of-the-daemon
	start_daemon
}

# inside BOX CMD…: runs CMD in the pid, mount, uts, ipc and net namespaces of
# the box, sets out.
inside() {
	local pid
	pid=$(pid_of "$1")
	shift
	ok nsenter -t "$pid" -m -p -u -i -n "$@"
}

@test "the command sees descriptors 0 to 2 and no other" {
	# The shell itself opens none: it reads its script from the command line, and
	# there is no pipeline.
	run_script x <<<'ls /proc/$$/fd; readlink /proc/$$/fd/0'
	assert "$out" = $'0\n1\n2\n/dev/null' "descriptors of the box"
}

@test "the command sees its own environment and nothing of the daemon's" {
	box x $'command: [env]\nenv: {GREETING: "hello world", EMPTY: ""}'
	ctl x start
	rd x/wait/stopped
	rd x/log
	assert "$(sort <<<"$out" | sed 's/^PATH=.*/PATH/')" = $'EMPTY=\nGREETING=hello world\nHOME=/root\nPATH' "environment"
	box y $'command: [env]\nuser: nobody\nenv: {PATH: /usr/bin, HOME: /tmp}'
	ctl y start
	rd y/wait/stopped
	rd y/log
	assert "$(sort <<<"$out")" = $'HOME=/tmp\nPATH=/usr/bin' "environment with PATH and HOME of the config"
}

@test "neither the shim nor the box has the daemon's descriptors or its /dev/fuse" {
	up x "$SLEEPER"
	up n "$SLEEPER"$'\nnetwork: none'
	local box pid
	for box in x n; do
		for pid in $(box_pids "$(pid_of "$box")"); do
			ls -l "/proc/$pid/fd" >"$W/fds"
			! grep -E '/dev/fuse|lock$|eventpoll' "$W/fds" || [[ $pid == "$(pid_of "$box")" ]] ||
				fail "process $pid of box $box has foreign descriptors: $(<"$W/fds")"
			! grep -E "/dev/fuse|$STATE/lock" "$W/fds" || fail "process $pid of box $box has: $(<"$W/fds")"
		done
	done
	! tr '\0' '\n' <"/proc/$(pid_of x)/environ" | grep -q of-the-daemon ||
		fail "the shim has the daemon's environment"
}

@test "the box has a /proc, a pid namespace and a hostname of its own" {
	run_script x <<<'set -- /proc/[0-9]*; echo $#; hostname; cat /proc/1/comm; test $$ -lt 20 && echo small'
	assert "$out" = $'2\nx\nboxlite-shim\nsmall' "processes, hostname, init"
	run_script y 'hostname: other' <<<hostname
	assert "$out" = other "hostname"
	assert "$(hostname)" != other "hostname of the host"
}

@test "the box has pid, mount, ipc and uts namespaces of its own, and the host's network" {
	up x "$SLEEPER"
	local pid ns
	pid=$(box_pids "$(pid_of x)" | grep -vx "$(pid_of x)")
	for ns in pid mnt ipc uts; do
		assert "$(readlink "/proc/$pid/ns/$ns")" != "$(readlink "/proc/self/ns/$ns")" "namespace $ns"
	done
	assert "$(readlink "/proc/$pid/ns/net")" = "$(readlink /proc/self/ns/net)" "namespace net"
}

@test "network none has loopback only, and it is up" {
	run_script x 'network: none' <<<'cat /proc/net/dev | sed -n "s/^ *\([a-z0-9]*\):.*/\1/p"; cat /sys/class/net/lo/flags /proc/net/route'
	assert "$(head -1 <<<"$out")" = lo "interfaces"
	box y $'command: [/usr/bin/python3, -c, "import socket; s = socket.create_server((\'127.0.0.1\', 0)); c = socket.create_connection(s.getsockname()); print(\'connected\')"]\nnetwork: none'
	ctl y start
	rd y/wait/stopped
	is y log connected
}

@test "workdir, user and groups are those of the config" {
	run_script x 'workdir: /usr' <<<pwd
	assert "$out" = /usr "workdir"
	run_script dflt <<<'pwd; id -u; id -g'
	assert "$out" = $'/\n0\n0' "defaults"
	run_script user 'user: nobody' <<<'id -u; id -g; id -G; umask'
	assert "$out" = "65534
$(id -g nobody)
$(id -G nobody)
0022" "user nobody"
	run_script group 'user: "1234:games"' <<<'id -u; id -g'
	assert "$out" = "1234
$(getent group games | cut -d: -f3)" "uid and group name"
	run_script numbers 'user: "1234:5678"' <<<'id -u; id -g; id -G'
	assert "$out" = $'1234\n5678\n5678' "uid and gid"
}

@test "the supplementary groups are the user's, not the daemon's" {
	stop_daemon
	LAUNCH=(setpriv "--groups=4,24,27")
	start_daemon
	assert "$(grep ^Groups "/proc/$DAEMON/status" | xargs)" = "Groups: 4 24 27" "groups of the daemon"
	# Every user that has a group besides its own, and one that has none.
	local user
	for user in nobody $(cut -d: -f4 /etc/group | tr ',' '\n' | sort -u); do
		[[ $user =~ ^[a-z_][a-z0-9_-]*$ ]] || continue
		run_script "g-$user" "user: $user" <<<'id -G'
		assert "$out" = "$(id -G "$user")" "groups of $user"
	done
	run_script r <<<'id -G'
	assert "$out" = "$(id -G root)" "groups of root"
}

@test "rlimits are set on the command, nofile is 1024 unless told" {
	run_script x <<<'ulimit -n; ulimit -Hn'
	assert "$out" = $'1024\n1024' "nofile by default"
	run_script y 'rlimits: {nofile: 512, core: 0, nproc: 333}' <<<'ulimit -n; ulimit -c; grep "Max processes" /proc/self/limits | tr -s " "'
	assert "$(sed -n 1,2p <<<"$out" | xargs)" = "512 0" "nofile and core"
	assert "$(sed -n 3p <<<"$out")" =~ '^Max processes 333 333' "nproc"
}

@test "no_new_privs is set unless told" {
	run_script x <<<'grep NoNewPrivs /proc/self/status'
	assert "$out" = $'NoNewPrivs:\t1' "by default"
	run_script y 'security: {no_new_privileges: false}' <<<'grep NoNewPrivs /proc/self/status'
	assert "$out" = $'NoNewPrivs:\t0' "when switched off"
}

# caps FILE SET: one capability mask of a status file.
caps() { sed -n "s/^Cap$1:\t//p" <<<"$out"; }

@test "capabilities are dropped and added" {
	run_script x 'security: {capabilities: {drop: [ALL]}}' <<<'cat /proc/self/status'
	local set
	for set in Eff Prm Bnd; do
		assert "$(caps "$set")" = 0000000000000000 "Cap$set after drop ALL"
	done
	run_script y 'security: {capabilities: {drop: [NET_RAW, CAP_SYS_ADMIN]}}' <<<'cat /proc/self/status'
	assert $((0x$(caps Eff) & (1 << 13 | 1 << 21))) -eq 0 "NET_RAW and SYS_ADMIN"
	assert $((0x$(caps Bnd) & (1 << 13 | 1 << 21))) -eq 0 "NET_RAW and SYS_ADMIN in the bounding set"
	assert $((0x$(caps Eff) & 1 << 0)) -ne 0 "CHOWN"
	run_script z 'security: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}' 'user: nobody' <<<'cat /proc/self/status'
	assert $((0x$(caps Eff))) -eq $((1 << 10)) "effective set of a user with one capability"
	run_script n 'user: nobody' <<<'cat /proc/self/status'
	assert $((0x$(caps Eff))) -eq 0 "effective set of a user"
}

@test "mounts show a directory or a file, writable or not" {
	mkdir "$W/rw" "$W/ro" "$W/target1" "$W/target2"
	echo content >"$W/ro/file"
	echo replaced >"$W/file"
	run_script x "mounts:
- {source: $W/rw, target: $W/target1}
- {source: $W/ro, target: $W/target2, readonly: true}
- {source: $W/file, target: /etc/hostname, readonly: true}" \
		<<<"echo written >$W/target1/new; cat $W/target2/file; touch $W/target2/new || echo refused; cat /etc/hostname"
	assert "$(grep -v touch: <<<"$out")" = $'content\nrefused\nreplaced' "log"
	assert "$(<"$W/rw/new")" = written "file written by the box"
	[[ ! -e $W/ro/new ]] || fail "the read-only mount was written to"
	[[ -z $(find "$W/target1" "$W/target2" -mindepth 1) ]] || fail "the mounts are seen on the host"
}

@test "readonly_rootfs leaves only what is mounted writable" {
	mkdir "$W/rw"
	run_script x "mounts: [{source: $W/rw, target: /mnt}]" 'security: {readonly_rootfs: true}' \
		<<<'touch /etc/new 2>/dev/null || echo refused; touch /mnt/new && echo written; echo x >/dev/null && echo null'
	assert "$out" = $'refused\nwritten\nnull' "log"
	[[ ! -e /etc/new ]] || fail "the box wrote to /etc"
}

@test "a box sees neither the control filesystem nor the state directory" {
	box other "$SLEEPER"
	run_script x <<<"find $MNT $STATE -mindepth 1 2>&1; cat $MNT/version $STATE/boxes/other/config.yaml 2>/dev/null; touch $STATE/new $MNT/new 2>/dev/null; echo done"
	assert "$out" = 'done' "what the box sees"
	[[ ! -e $STATE/new ]] || fail "the box wrote to the state directory"
}

@test "a box that is told to sees the control filesystem" {
	run_script x "mounts: [{source: $MNT/version, target: /mnt}]" <<<'true' || :
	mkdir "$W/ctl"
	run_script y "mounts: [{source: $MNT, target: $W/ctl}]" <<<"timeout 5 cat $W/ctl/boxes/y/wait/running"
	assert "$out" = running "what the box reads of itself"
}

@test "an unmount on the host reaches the box, and no mount of the box the host" {
	# As on a host whose service manager makes / shared.
	mkdir "$W/shared"
	mount --bind "$W/shared" "$W/shared"
	mount --make-shared "$W/shared"
	mkdir "$W/shared/tmpfs"
	mount -t tmpfs none "$W/shared/tmpfs"
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	seen() { grep -q " $W/shared/tmpfs " "/proc/$1/mountinfo"; }
	seen "$pid" || fail "the box does not see the mount of the host"
	ok umount "$W/shared/tmpfs"
	! seen "$pid" || fail "the box still has it"
	inside x mount -t tmpfs none "$W/shared/tmpfs"
	! seen self || fail "a mount of the box is seen on the host"
	ctl x kill
	umount "$W/shared"
}

@test "the shim runs in a session of its own" {
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	assert "$(ps -o sid= -p "$pid" | xargs)" -eq "$pid" "session of the shim"
	local cmd
	cmd=$(box_pids "$pid" | grep -vx "$pid")
	assert "$(ps -o pgid= -p "$cmd" | xargs)" != "$(ps -o pgid= -p "$pid" | xargs)" "process group of the command"
	assert "$(ps -o tty= -p "$cmd" | xargs)" = '?' "terminal of the command"
}

@test "signals are as a fresh process has them: nothing blocked, nothing ignored" {
	run_script x <<<'grep -E "^Sig(Blk|Ign)" /proc/self/status'
	assert "$out" = $'SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000' "signals"
}

@test "orphans are reaped inside the box" {
	script x <<<'i=0; while [ $i -lt 20 ]; do (true &); i=$((i+1)); done; echo ready; exec sleep infinity'
	ctl x start
	logs x ready
	local pid
	pid=$(pid_of x)
	only_two() { (($(box_pids "$pid" | wc -l) == 2)); }
	await "all orphans to be reaped" 5 only_two
}

@test "a daemonised child ends with the command" {
	local pid ns
	script x <<<'setsid -f sleep infinity; setsid -f sh -c "trap \"\" TERM HUP; while :; do sleep 1; done"; echo ready; sleep 0.3'
	ctl x start
	rd x/wait/running
	pid=$(pid_of x)
	hold_namespace "$pid"
	rd x/wait/stopped
	[[ -z $(ns_pids "$ns") ]] || fail "processes are left: $(ns_pids "$ns" | xargs)"
	vanished "$pid" || fail "the shim is left"
}

@test "a daemonised child that ignores TERM dies on kill and on stop" {
	local how pid ns
	for how in kill 'stop 200ms'; do
		script "x${how%% *}" <<<'setsid -f sh -c "trap \"\" TERM HUP; while :; do sleep 1; done"; echo ready; exec sleep infinity'
		ctl "x${how%% *}" start
		logs "x${how%% *}" ready
		pid=$(pid_of "x${how%% *}")
		hold_namespace "$pid"
		ctl "x${how%% *}" "$how"
		[[ -z $(ns_pids "$ns") ]] || fail "processes are left after $how: $(ns_pids "$ns" | xargs)"
	done
}

@test "a box cannot signal its own supervisor away" {
	up x "$SLEEPER"
	run_script y <<<'kill -9 1; kill -TERM -1 2>/dev/null; sleep 0.05; echo alive'
	assert "$out" has alive "log"
	is x status running
}

@test "a box cannot see or signal the processes of another" {
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	run_script y <<<"kill -9 $pid 2>&1 | grep -o 'No such process'; echo done"
	assert "$out" has 'done' "log"
	is x status running
	is x pid "$pid"
}

@test "what the box costs is one shim" {
	up x "$SLEEPER"
	assert "$(box_pids "$(pid_of x)" | wc -l)" -eq 2 "processes of the box: the shim and its command"
	assert "$(live_shims | wc -l)" -eq 1 "shims"
	assert "$(processes_of "$BOXLITED" | wc -l)" -le 2 "processes of the daemon"
}
