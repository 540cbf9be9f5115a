#!/usr/bin/env bats
#
# exec/, command probes and root/ of a container.

load helpers
load containers
load hostile

setup() {
	common_setup
	make_rootfs
	start_daemon
}

E() { echo "$MNT/boxes/$1/exec/$2"; }

# new BOX NAME: makes an exec that runs standard input; sets rc.
new() {
	ok mkdir "$(E "$1" "$2")"
	feed sh -c 'exec cat >"$1"' sh "$(E "$1" "$2")/cmd"
}

# run BOX NAME: as new, to its end; out is its stdout.
run_exec() {
	new "$1" "$2"
	((rc == 0)) || fail "cmd of $1/$2 refused: $err; $(t cat "$MNT/boxes/$1/last_error")"
	rd "$1/exec/$2/stdout"
}

# sleeper BOX [CONFIG…]
sleeper() {
	local name=$1
	shift
	up_box "$name" 'echo up; trap "exit 3" TERM; while :; do sleep 0.1; done' "$@"
	logs "$name" up
}

inside() {
	sleeper "$RT-a" 'env: {A: box, B: box}' 'hostname: within'
	run_exec "$RT-a" e1 <<<'{command: [sh, -c, "id -u; hostname; echo $A $B $C; pwd; readlink /proc/self/ns/net; grep -E ^Seccomp: /proc/self/status; grep CapBnd /proc/self/status; echo /proc/self/fd: $(ls /proc/self/fd); cut -d: -f3 /proc/self/cgroup | sort -u"], env: {B: exec, C: c}, workdir: /srv}'
	line 0
	line within
	line 'box exec c'
	line /srv
	line $'Seccomp:\t2'
	line $'CapBnd:\t00000000a80425fb'
	line /
	no_line "^$(readlink /proc/self/ns/net)$"
	line '/proc/self/fd: 0 1 2 3' # the last is the directory that ls reads
	is "$RT-a" exec/e1/exit_code 0
	run_exec "$RT-a" e2 <<<'{command: [id], user: web}'
	line 'uid=33(web) gid=34(web) groups=34(web),35(extra)'
	new "$RT-a" e3 <<<'{command: [id], user: nobody}'
	assert "$rc" -ne 0 "status of a user that the container does not have"
	new "$RT-a" e4 <<<'no-such-program'
	is "$RT-a" exec/e4/status failed
	is "$RT-a" exec/e4/exit_code 127
	rd "$RT-a/last_error"
	[[ $out == *no-such-program*"not found"* ]] || fail "last_error: $out"
	run_exec "$RT-a" e5 <<<'{command: [sh, -c, "echo to >/dev/stdout; echo err >&2; exit 9"]}'
	line to
	is "$RT-a" exec/e5/stderr err
	is "$RT-a" exec/e5/exit_code 9
	local pid
	new "$RT-a" e6 <<<'sleep 1000'
	pid=$(t cat "$(E "$RT-a" e6)/pid")
	await "the pid to be that of the command" 5 eval '[[ $(xargs -0 <"/proc/$pid/cmdline") == "sleep 1000" ]]'
	assert "$(readlink "/proc/$pid/ns/user")" != "$(readlink /proc/self/ns/user)" "user namespace of an exec"
	assert "$(cgroup_of "$pid" memory)" = "$(cgroup_of "$(box_command "$(pid_of "$RT-a")")" memory)" "cgroup of an exec"
	ok "${ECHO[@]}" "$(E "$RT-a" e6)/ctl" 'signal TERM'
	rd "$RT-a/exec/e6/wait/stopped"
	assert "$out" = 143 "code of an exec that got a SIGTERM"
	ctl "$RT-a" kill
	ok rmdir "$MNT/boxes/$RT-a"
}
@test "an exec is inside the container, as its command is" { both inside; }

nameless() {
	local box=$RT-n e
	sleeper "$box"
	run_exec "$box" e1 <<<'{command: [sh, -c, "ls -l /proc/$$/fd; cat /proc/$$/mountinfo /proc/$$/mounts /proc/$$/cmdline /proc/$$/environ; echo; readlink /proc/$$/cwd /proc/$$/root; echo end"]}'
	line end
	line_of_stdout "$box"
	no_line "$W"
	# With a terminal, too.
	run_exec "$box" e2 <<<'{command: [sh, -c, "ls -l /proc/$$/fd; echo end"], tty: true}'
	[[ $out == *end* ]] || fail "no end in: $out"
	no_line "$W"
	ctl "$box" kill
	ok rmdir "$MNT/boxes/$box"
}
# line_of_stdout BOX: out says where descriptor 1 leads.
line_of_stdout() { grep -qE '[ /]1 -> .*stdout$' <<<"$out" || fail "descriptor 1 is no stream of its exec in: $out"; }
@test "nothing that an exec has names the state directory" {
	both nameless
	# Engine host hides what is in it, and cannot hide where: that is a mount.
	up host 'command: [sleep, infinity]'
	run_exec host e1 <<<'{command: [sh, -c, "ls -l /proc/$$/fd; cat /proc/$$/cmdline /proc/$$/environ; echo; echo end"]}'
	line end
	line_of_stdout host
	no_line "$W"
}

at_once() {
	local i
	sleeper "$RT-z"
	for i in {1..30}; do
		run_exec "$RT-z" e <<<'true'
		ok rmdir "$MNT/boxes/$RT-z/exec/e"
	done
	ctl "$RT-z" kill
	ok rmdir "$MNT/boxes/$RT-z"
}
@test "an exec that has ended before its runtime is known to have run" { both at_once; }

timed() {
	sleeper "$RT-t"
	new "$RT-t" e1 <<<'{command: [sh, -c, "trap : TERM; sleep 1000 & sleep 1000"], timeout: 300ms}'
	rd "$RT-t/exec/e1/wait/stopped"
	assert "$out" = 124 "code"
	await "nothing of it to be left" 5 eval '! t cat "$MNT/boxes/$RT-t/exec/e1/pid" | grep -qv -- "^-1$" && [[ $(box_pids "$(pid_of "$RT-t")" | xargs -n1 ps -o args= -p 2>/dev/null | grep -c "sleep 1000") == 0 ]]'
	ctl "$RT-t" kill
	ok rmdir "$MNT/boxes/$RT-t"
}
@test "a timeout kills the whole group in a container" { both timed; }

ends() {
	local how code
	for how in 'stop' 'kill' shim; do
		sleeper "$RT-$how"
		new "$RT-$how" e1 <<<'sh -c "echo said; sleep 1000"'
		new "$RT-$how" e2 <<<'sleep 1000'
		if [[ $how == shim ]]; then
			ok kill -KILL "$(pid_of "$RT-shim")"
		else
			ctl "$RT-$how" "$how"
		fi
		becomes "$RT-$how" status stopped
		rd "$RT-$how/exec/e2/wait/stopped"
		assert "$out" = 137 "code of an exec after $how"
		is "$RT-$how" exec/e2/status stopped
		ok rmdir "$MNT/boxes/$RT-$how"
	done
}
@test "the end of a container ends its execs, and their codes are known" { both ends; }

terminal() {
	sleeper "$RT-y"
	new "$RT-y" e1 <<<$'command: [sh, -c, "tty; stty size; read x; echo got $x; exit 4"]\ntty: true'
	ok sh -c 'echo word >"$1"' sh "$(E "$RT-y" e1)/stdin"
	rd "$RT-y/exec/e1/wait/stopped"
	assert "$out" = 4 "code"
	rd "$RT-y/exec/e1/stdout"
	out=${out//$'\r'/}
	grep -qx '/dev/pts/[0-9]*' <<<"$out" || fail "no terminal: $out"
	line '24 80'
	line 'got word'
	ctl "$RT-y" kill
	ok rmdir "$MNT/boxes/$RT-y"
}
@test "an exec in a container has a terminal of the container's" { both terminal; }

ten_megabytes() {
	sleeper "$RT-m"
	head -c 10485760 /dev/urandom >"$W/data"
	new "$RT-m" e1 <<<cat
	T=60 bg out sh -c 'exec cat "$1" >"$2"' sh "$(E "$RT-m" e1)/stdout" "$W/back"
	T=60 ok sh -c 'exec cat "$1" >"$2"' sh "$W/data" "$(E "$RT-m" e1)/stdin"
	join out 60
	cmp "$W/data" "$W/back" || fail "what came back differs"
	ctl "$RT-m" kill
	ok rmdir "$MNT/boxes/$RT-m"
}
@test "10 MB go through an exec in a container unchanged" { both ten_megabytes; }

@test "100 execs at once in a container" {
	RT=crun
	sleeper x
	T=120 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/execs.py" "$MNT/boxes/x/exec" crowd
	say "$out"
}

survives() {
	sleeper "$RT-d"
	new "$RT-d" e1 <<<'{command: [sh, -c, "read x; echo got $x; exit 6"]}'
	new "$RT-d" e2 <<<'{command: [sh, -c, "read x; exit 7"]}'
	kill_daemon
	start_daemon
	is "$RT-d" exec/e1/status running
	ok sh -c 'echo word >"$1"' sh "$(E "$RT-d" e1)/stdin"
	rd "$RT-d/exec/e1/wait/stopped"
	assert "$out" = 6 "code"
	is "$RT-d" exec/e1/stdout 'got word'
	run_exec "$RT-d" e3 <<<'{command: [id, -u], user: web}'
	line 33
	ctl "$RT-d" kill
	ok rmdir "$MNT/boxes/$RT-d"
}
@test "execs of a container outlive the daemon, and the next one starts more" { both survives; }

probes() {
	sleeper "$RT-p" 'health_check: {command: [sh, -c, "test -e /tmp/well && echo well && id -u"], interval: 100ms, retries: 1, start_period: 0s}'
	becomes "$RT-p" health unhealthy
	run_exec "$RT-p" e1 <<<'touch /tmp/well'
	becomes "$RT-p" health healthy
	json "$RT-p" probe.output
	assert "$out" = $'well\n0' "output of the probe"
	ctl "$RT-p" kill
	ok rmdir "$MNT/boxes/$RT-p"
	sleeper "$RT-q" 'health_check: {command: [sh, -c, "trap : TERM; sleep 1000 & sleep 1000"], interval: 100ms, timeout: 300ms, retries: 1, start_period: 0s}'
	becomes "$RT-q" health unhealthy
	json "$RT-q" probe.timed_out
	assert "$out" = True "timed_out"
	ctl "$RT-q" kill
	ok rmdir "$MNT/boxes/$RT-q"
}
@test "the command of a health check runs inside the container" { both probes; }

files() {
	mkdir -p "$W/given"
	echo given >"$W/given/file"
	sleeper "$RT-f" "mounts: [{source: $W/given, target: /given}]"
	is "$RT-f" root/given/file given # the root of the command, and not of the container's init
	echo in >"$W/in"
	ok cp "$W/in" "$MNT/boxes/$RT-f/root/srv/in"
	new "$RT-f" e2 <<<'{command: [sh, -c, "cat /srv/in; stat -c %u:%g /srv/in; echo out >/srv/out; ln -s /etc/passwd /srv/link; ln -s /nowhere /srv/dangling"]}'
	rd "$RT-f/exec/e2/stdout"
	line in
	line 0:0
	ok cp "$MNT/boxes/$RT-f/root/srv/out" "$W/out"
	assert "$(<"$W/out")" = out "what came out"
	ok cat "$MNT/boxes/$RT-f/root/srv/link"
	assert "$out" = "$(<"$ROOT/etc/passwd")" "what a link to /etc/passwd shows"
	T=20 try cp "$W/in" "$MNT/boxes/$RT-f/root/srv/dangling"
	[[ ! -e /nowhere ]] || fail "a link of the box made a file on the host"
	ctl "$RT-f" kill
	ok rmdir "$MNT/boxes/$RT-f"
}
@test "files go in and out of a container by root/" { both files; }

# slow_runtime: one that has started what it was told to, and does not end.
slow_runtime() {
	mkdir -p "$W/path"
	cat >"$W/path/$RT" <<-E
		#!/bin/sh
		$(command -v "$RT") "\$@" || exit
		case " \$* " in *" exec "*) sleep 1001;; esac
	E
	chmod +x "$W/path/$RT"
}

unborn() {
	local n
	sleeper "$RT-u"
	for n in {1..10}; do
		new "$RT-u" "e$n" <<<"{command: [sleep, '1001'], timeout: $((9 + n * $1))ms}"
	done
	for n in {1..10}; do
		rd "$RT-u/exec/e$n/wait/stopped"
		assert "$out" = 124 "code of exec $n"
	done
	await "nothing of them to be left" 5 none_left "$RT-u"
	ctl "$RT-u" kill
	ok rmdir "$MNT/boxes/$RT-u"
}
none_left() { at_most "$1" 0; }
at_most() { (($(box_pids "$(pid_of "$1")" | xargs -rn1 ps -o args= -p 2>/dev/null | grep -c 'sleep 1001') <= $2)); }
@test "a timeout that comes while an exec is started leaves nothing of it" {
	RT=crun
	unborn 2
	RT=runc
	unborn 8
	stop_daemon
	for RT in crun runc; do
		slow_runtime
	done
	PATH=$W/path:$PATH start_daemon
	for RT in crun runc; do
		unborn 30
		up_box "$RT-p" 'echo up; sleep 1000' 'health_check: {command: [sleep, "1001"], interval: 100ms, start_period: 0s, retries: 4, timeout: 300ms}'
		becomes "$RT-p" health unhealthy
		await "no more than the last probe to be left" 5 at_most "$RT-p" 2
		ctl "$RT-p" kill
	done
}

@test "a probe in a container may write by way of /dev/stdout" {
	for RT in crun runc; do
		up_box "$RT-w" 'echo up; sleep 1000' 'user: web' 'health_check: {command: [sh, -c, "echo said >/dev/stdout"], interval: 100ms, start_period: 0s, retries: 1}'
		await "a probe" 10 eval '! has $RT-w health starting'
		is "$RT-w" health healthy
		ctl "$RT-w" kill
	done
}

@test "an exec that was being started when the daemon was killed gets its pid" {
	local pid
	RT=crun
	stop_daemon
	mkdir -p "$W/path"
	cat >"$W/path/crun" <<-E
		#!/bin/sh
		case " \$* " in *" exec "*) while [ ! -e $W/go ]; do sleep 0.05; done;; esac
		exec $(command -v crun) "\$@"
	E
	chmod +x "$W/path/crun"
	PATH=$W/path:$PATH start_daemon
	sleeper n
	ok mkdir "$(E n e1)"
	bg begin "${ECHO[@]}" "$(E n e1)/cmd" 'sleep 1001'
	await "the runtime to start it" 5 eval 'box_pids "$(pid_of n)" | xargs -rn1 ps -o args= -p | grep -q "path/crun.* exec "'
	kill_daemon
	start_daemon
	is n exec/e1/pid -1
	touch "$W/go"
	await "its pid" 5 eval '[[ $(xargs -0 <"/proc/$(t cat "$(E n e1)/pid")/cmdline") == "sleep 1001" ]]'
	ctl n kill
	is n exec/e1/exit_code 137
}
