#!/usr/bin/env bats
#
# A box's life: start, stop, kill, restart, signals, pause, removal, failed
# starts, and the rules of ctl.

load helpers

setup() {
	common_setup
	start_daemon
}

# fails_to_start BOX PATTERN: close says EIO, last_error why.
fails_to_start() {
	ctl_refused EIO "$1" start
	is "$1" status failed
	is "$1" pid -1
	rd "$1/last_error"
	assert "$out" =~ "$2" "last_error"
	assert "$(wc -l <"$W/out")" -eq 1 "lines of last_error"
	refused ECANCELED cat "$MNT/boxes/$1/wait/running"
}

# nothing_left PID NAMESPACE: neither the shim nor a process of its box is left.
nothing_left() {
	vanished "$1" || fail "/proc/$1 is still there: $(grep State "/proc/$1/status")"
	[[ -z $(ns_pids "$2") ]] || fail "processes are left: $(ns_pids "$2" | xargs)"
}

@test "a box starts, runs and stops by itself" {
	watch_fds
	script x <<<'echo hello; exec sleep infinity'
	is x status configured
	ctl x start
	is x status running
	local pid
	pid=$(pid_of x)
	assert "$(cat "/proc/$pid/comm")" = boxlite-shim "comm of boxes/x/pid"
	assert "$(awk '/^PPid:/ {print $2}' "/proc/$pid/status")" = "$DAEMON" "parent of the shim"
	is x exit_code -1
	is x last_error ok
	logs x hello
	ctl x kill
	is x status stopped
	is x pid -1
	is x exit_code 137
	is x health none
}

@test "the exit code is the command's" {
	local code
	for code in 0 1 42 255; do
		box "x$code" "command: [sh, -c, exit $code]"
		ctl "x$code" start
		rd "x$code/wait/stopped"
		assert "$out" = "$code" "wait/stopped"
		is "x$code" exit_code "$code"
		is "x$code" status stopped
		is "x$code" pid -1
	done
}

@test "a command that dies of signal N exits with 128+N" {
	local sig
	for sig in TERM KILL SEGV HUP; do
		box "x$sig" "command: [sh, -c, 'kill -$sig \$\$']"
		ctl "x$sig" start
		rd "x$sig/wait/stopped"
		assert "$out" = $((128 + $(kill -l "$sig"))) "exit code after SIG$sig"
	done
}

@test "start on a running box is a no-op" {
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	ctl x start
	ctl x start
	is x pid "$pid"
	rd x/events
	assert "$(grep -c 'status from=.* to=running' <<<"$out")" -eq 1 "starts in events"
}

@test "stop, kill and a second kill of a box without a process are no-ops" {
	box x "$SLEEPER"
	ctl x stop
	ctl x kill
	is x status configured
	ctl x start
	ctl x kill
	ctl x kill
	ctl x stop
	is x status stopped
	is x exit_code 137
	rd x/events
	assert "$(grep -c 'to=stopped' <<<"$out")" -eq 1 "stops in events"
	box y
	ctl y stop
	ctl y kill
	is y status empty
}

@test "a stopped box starts again, as often as one likes" {
	watch_fds
	box x 'command: [sh, -c, exit 3]'
	local i
	for i in {1..10}; do
		ctl x start
		rd x/wait/stopped
		assert "$out" = 3 "exit code of run $i"
	done
	rd x/events
	assert "$(grep -c 'to=stopped' <<<"$out")" -eq 10 "ends in events"
}

@test "stop sends the stop signal and takes the command's own exit code" {
	script x <<<'trap "echo term; exit 7" TERM; echo ready; while :; do sleep 0.05; done'
	ctl x start
	logs x ready
	ctl x stop
	is x status stopped
	is x exit_code 7
	rd x/log
	assert "$out" has term "log"

	script y 'stop: {signal: SIGUSR1}' <<<'trap "exit 9" USR1; echo ready; while :; do sleep 0.05; done'
	ctl y start
	logs y ready
	ctl y stop
	is y exit_code 9
}

@test "a command that ignores the stop signal is killed after the grace" {
	local began
	script x 'stop: {timeout: 500ms}' <<<"$STUBBORN"
	ctl x start
	logs x ready
	began=$(now)
	ctl x stop
	assert $(($(now) - began)) -ge 500 "milliseconds that stop took"
	assert $(($(now) - began)) -lt 3000 "milliseconds that stop took"
	is x status stopped
	is x exit_code 137

	ctl x start
	logs x ready 2
	began=$(now)
	ctl x 'stop 1s'
	assert $(($(now) - began)) -ge 1000 "milliseconds that stop 1s took"
	is x exit_code 137
}

@test "kill is never stuck behind a stop: it cuts its grace short" {
	local pid ns began
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	pid=$(pid_of x)
	hold_namespace "$pid"
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 60s'
	becomes x status stopping
	await_blocked stop
	is x pid "$pid"
	began=$(now)
	ctl x kill
	assert $(($(now) - began)) -lt 1000 "milliseconds that kill took"
	nothing_left "$pid" "$ns"
	is x status stopped
	is x exit_code 137
	join stop 2
	assert "$rc" -eq 0 "status of the stop: $err"
}

@test "a second stop with a shorter grace is not kept waiting by the first" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 60s'
	becomes x status stopping
	ctl x 'stop 100ms'
	is x status stopped
	join stop 2
	assert "$rc" -eq 0 "status of the first stop: $err"
}

@test "start of a box that is stopping is EBUSY" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 60s'
	becomes x status stopping
	ctl_refused EBUSY x start
	rd x/last_error
	assert "$out" != ok "last_error"
	ctl x kill
	join stop
}

@test "kill leaves nothing in /proc when its close returns" {
	local pid ns i
	script x <<<'sleep infinity & (setsid sleep infinity &) ; (sh -c "sleep infinity & wait" &) ; echo ready; wait'
	for i in 1 2 3 4 5; do
		ctl x start
		logs x ready "$i"
		pid=$(pid_of x)
		hold_namespace "$pid"
		assert "$(ns_pids "$ns" | wc -l)" -ge 5 "processes of the box"
		ctl x kill
		nothing_left "$pid" "$ns"
	done
	ok rmdir "$MNT/boxes/x"
}

@test "echo kill && rmdir needs no sleep" {
	local i
	for i in {1..10}; do
		up x "$SLEEPER"
		ok bash -c 'echo kill >"$1/ctl" && rmdir "$1"' sh "$MNT/boxes/x"
	done
}

@test "a kill -9 of the shim from outside is seen at once and leaves no zombie" {
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	bg waiter cat "$MNT/boxes/x/wait/stopped"
	await_blocked waiter
	kill -KILL "$pid"
	join waiter 2
	assert "$out" = 137 "wait/stopped"
	vanished "$pid" || fail "/proc/$pid is still there"
	is x status stopped
	is x exit_code 137
	is x pid -1
}

@test "a kill -TERM of the shim from outside is the road of stop" {
	script x <<<'trap "echo term; exit 7" TERM; echo ready; while :; do sleep 0.05; done'
	ctl x start
	logs x ready
	local pid
	pid=$(pid_of x)
	kill -TERM "$pid"
	rd x/wait/stopped
	assert "$out" = 7 "exit code"
	vanished "$pid" || fail "/proc/$pid is still there"
	is x status stopped
	rd x/log
	assert "$out" has term "log"
}

@test "restart gives a new process" {
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	ctl x restart
	is x status running
	assert "$(pid_of x)" != "$pid" "pid after restart"
	vanished "$pid" || fail "the old shim is still there"
	ctl x kill
	ctl x restart
	is x status running
	script y <<<"$STUBBORN"
	ctl y restart
	logs y ready
	ctl y 'restart 100ms'
	is y status running
	box z
	ctl_refused ENODATA z restart
}

@test "signal reaches the command" {
	script x <<<'trap "echo got HUP" HUP; trap "echo got USR1" USR1; echo ready; while :; do sleep 0.05; done'
	ctl x start
	logs x ready
	ctl x 'signal HUP'
	logs x 'got HUP'
	ctl x 'signal SIGUSR1'
	logs x 'got USR1'
	ctl x 'signal 15'
	rd x/wait/stopped
	assert "$out" = 143 "exit code"
	ctl_refused ESRCH x 'signal TERM'
	ctl_refused EINVAL x 'signal NOSUCH'
	ctl_refused EINVAL x 'signal 999'
	ctl_refused EINVAL x 'signal'
}

# cpu_ticks PID…: processor time that the processes have used.
cpu_ticks() {
	local pid sum=0 stat
	for pid; do
		stat=$(<"/proc/$pid/stat")
		# shellcheck disable=SC2086
		set -- ${stat##*) }
		sum=$((sum + ${12} + ${13}))
	done
	echo "$sum"
}

@test "pause freezes all of a box, resume thaws it" {
	local pids before
	script x <<<'(while :; do :; done) & echo ready; while :; do :; done'
	ctl x start
	logs x ready
	mapfile -t pids < <(box_pids "$(pid_of x)" | grep -vx "$(pid_of x)")
	assert "${#pids[@]}" -ge 2 "processes of the box"
	ctl x pause
	is x status paused
	before=$(cpu_ticks "${pids[@]}")
	# That nothing happens can only be seen over a time.
	sleep 0.3
	assert "$(cpu_ticks "${pids[@]}")" -eq "$before" "ticks of a paused box"
	ctl x pause
	is x status paused
	ctl x resume
	is x status running
	used_more() { (($(cpu_ticks "${pids[@]}") > before)); }
	await "the box to go on" 5 used_more
	ctl x resume
	ctl x kill
	ctl_refused ESRCH x pause
	ctl_refused ESRCH x resume
}

@test "a paused box can be killed and stopped" {
	up x "$SLEEPER"
	ctl x pause
	ctl x kill
	is x status stopped
	is x exit_code 137
	ctl x start
	ctl x pause
	ctl x stop
	is x status stopped
	is x exit_code 143
}

@test "rmdir of a box with a process is EBUSY, of any other it removes all" {
	up x "$SLEEPER"
	refused EBUSY rmdir "$MNT/boxes/x"
	is x status running
	rd x/last_error
	assert "$out" != ok "last_error"
	ctl x pause
	refused EBUSY rmdir "$MNT/boxes/x"
	ctl x kill
	ok rmdir "$MNT/boxes/x"
	refused ENOENT cat "$MNT/boxes/x/status"
	[[ ! -e $STATE/boxes/x ]] || fail "the state directory still has the box"
	trash_empty() { [[ -z $(ls -A "$STATE/trash") ]]; }
	await "the trash to be emptied" 5 trash_empty
	box y
	ok rmdir "$MNT/boxes/y"
	box z "$SLEEPER"
	ok rmdir "$MNT/boxes/z"
}

@test "start without a config is ENODATA" {
	box x
	ctl_refused ENODATA x start
	is x status empty
	rd x/last_error
	assert "$out" =~ 'config' "last_error"
	refused ENODATA bash -c 'echo start >"$1"' sh "$MNT/boxes/x/ctl"
}

@test "a command that is not found is a failed start" {
	box x 'command: [no-such-command]'
	fails_to_start x '"?no-such-command"?.*not found'
	box y 'command: [/no/such/command]'
	fails_to_start y '/no/such/command.*(not found|no such file)'
	# It was the path that was looked up, so a PATH of the config counts.
	box z $'command: ["true"]\nenv: {PATH: /nowhere}'
	fails_to_start z 'true.*not found'
}

@test "a command that is not executable is a failed start" {
	echo data >"$W/data"
	box x "command: [$W/data]"
	fails_to_start x "data.*(not executable|permission denied)"
	chmod +x "$W/data"
	printf '\x7fnonsense' >"$W/data"
	fails_to_start x 'data.*(not executable|exec format)'
	box y 'command: [/tmp]'
	fails_to_start y '/tmp.*(not executable|permission denied|is a directory)'
}

@test "a workdir, user or mount that is not there is a failed start" {
	box dir $'command: [sleep, "1"]\nworkdir: /no/such/dir'
	fails_to_start dir '/no/such/dir'
	box user $'command: [sleep, "1"]\nuser: nosuchuser'
	fails_to_start user 'nosuchuser'
	box group $'command: [sleep, "1"]\nuser: root:nosuchgroup'
	fails_to_start group 'nosuchgroup'
	box source $'command: [sleep, "1"]\nmounts: [{source: /no/such/source, target: /mnt}]'
	fails_to_start source '/no/such/source'
	box target $'command: [sleep, "1"]\nmounts: [{source: /tmp, target: /no/such/target}]'
	fails_to_start target '/no/such/target'
}

@test "a failed box starts once its config is right" {
	box x 'command: [no-such-command]'
	fails_to_start x 'not found'
	configure x <<<"$SLEEPER"
	is x last_error ok
	ctl x start
	is x status running
	is x last_error ok
}

@test "what is no command is EINVAL in the write, and does nothing" {
	up x "$SLEEPER"
	local word
	for word in bogus 'start now' 'kill 9' 'stop soon' 'stop -1s' 'stop 1s 2s' 'START' 'pause 1' 'restart x'; do
		refused EINVAL bash -c 'echo "$2" >"$1"' sh "$MNT/boxes/x/ctl" "$word"
		rd x/last_error
		assert "$out" =~ "line 1: .*(${word%% *}|${word##* })" "last_error after $word"
	done
	is x status running
	ctl x 'signal CONT'
	is x last_error ok
}

@test "a command needs no newline, and space around it does not matter" {
	box x "$SLEEPER"
	ok sh -c 'printf start | cat >"$1"' sh "$MNT/boxes/x/ctl"
	is x status running
	ctl x '  kill  '
	is x status stopped
}

@test "several lines are executed in order" {
	box x "$SLEEPER"
	ctl x $'start\npause\nresume\nkill\nstart'
	is x status running
	rd x/events
	assert "$(grep " status " <<<"$out" | sed -n 's/.* to=//p' | cut -d' ' -f1 | xargs)" = \
		"configured starting running paused running stopping stopped starting running" "states in order"
}

@test "a wrong line among several refuses the whole write" {
	box x "$SLEEPER"
	ctl_refused EINVAL x $'start\nbogus'
	is x status configured
}

@test "a write of over 4 KiB is E2BIG" {
	box x "$SLEEPER"
	printf 'start\n%.0s' {1..700} >"$W/many"
	refused E2BIG dd if="$W/many" of="$MNT/boxes/x/ctl" bs=8192 status=none
	is x status configured
	rd x/last_error
	assert "$out" has 4096 "last_error"
	printf 'kill\n%.0s' {1..800} >"$W/many"
	ok dd if="$W/many" of="$MNT/boxes/x/ctl" bs=8192 status=none
}

@test "the write accepts, the close completes" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	py 'import os, sys, time
fd = os.open(sys.argv[1] + "/ctl", os.O_WRONLY)
t = time.monotonic()
os.write(fd, b"stop 700ms\n")
wrote = time.monotonic() - t
seen = open(sys.argv[1] + "/status").read().strip()
os.close(fd)
closed = time.monotonic() - t
after = open(sys.argv[1] + "/status").read().strip()
print(wrote < 0.35, seen, closed >= 0.7, after)' "$MNT/boxes/x"
	assert "$out" = "True stopping True stopped" "write quick, state between, close slow, state after"
}

@test "while one close waits, other requests answer at once" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 60s'
	await_blocked stop
	T=2
	is x status stopping
	ok mkdir "$MNT/boxes/y"
	ok ls -l "$MNT/boxes" "$MNT/boxes/x"
	ok rmdir "$MNT/boxes/y"
	ctl_refused EINVAL x bogus
	refused EBUSY rmdir "$MNT/boxes/x"
	ok stat "$MNT/boxes/x/ctl"
	T=10
	ctl x kill
	join stop
}

@test "Ctrl-C ends the wait of a close, and the work goes on" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 1s'
	await_blocked stop
	kill -INT "${PID[stop]}"
	join stop 1
	assert "$rc" -ne 0 "status of the interrupted stop"
	is x status stopping
	rd x/wait/stopped
	assert "$out" = 137 "exit code"
}

@test "a close that was interrupted says EINTR" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	bg stop /usr/bin/python3 -c 'import ctypes, os, signal, sys
signal.signal(signal.SIGINT, lambda *a: None)
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, b"stop 1s\n")
print(libc.close(fd), os.strerror(ctypes.get_errno()))' "$MNT/boxes/x/ctl"
	await_blocked stop
	kill -INT "${PID[stop]}"
	join stop 1
	assert "$out" = "-1 ${ERRNO_TEXT[EINTR]}" "close"
	rd x/wait/stopped
}

@test "SIGKILL of a waiting close leaves no process behind" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 60s'
	await_blocked stop
	kill -KILL "${PID[stop]}"
	join stop 1
	is x status stopping
	ctl x kill
}

@test "a reader that opens and closes ctl commands nothing" {
	up x "$SLEEPER"
	ok sh -c ': >"$1"' sh "$MNT/boxes/x/ctl"
	ok sh -c ': >>"$1"' sh "$MNT/boxes/x/ctl"
	refused EINVAL bash -c 'echo >"$1"' sh "$MNT/boxes/x/ctl"
	is x status running
}

@test "autostart starts the box when its first config is written" {
	box x
	configure x <<<"$SLEEPER"$'\nautostart: true'
	T=5 becomes x status running
	ctl x kill
	configure x <<<"$SLEEPER"$'\nautostart: true\nhostname: again'
	is x status stopped
}

@test "autostart starts the box when the daemon starts" {
	box x "$SLEEPER"$'\nautostart: true'
	becomes x status running
	box y "$SLEEPER"
	ctl x kill
	restart_daemon
	T=5 becomes x status running
	is y status configured
}

@test "remove_on_exit removes the box when its run ends" {
	box y "$SLEEPER"$'\nremove_on_exit: true'
	ctl y start
	bg waiter cat "$MNT/boxes/y/wait/exit"
	await_blocked waiter
	ctl y kill
	join waiter 2
	assert "$out" = 137 "exit code that a waiter gets of a box that removes itself"
	no_box() { ! t ls "$MNT/boxes" | grep -qx y; }
	await "the box to be removed" 5 no_box
	[[ ! -e $STATE/boxes/y ]] || fail "the state directory still has the box"
	ok cat "$MNT/events"
	assert "$out" =~ ' y removed' "events"
}

@test "a box with detach: false dies with the daemon, by SIGTERM and by SIGKILL" {
	local pid ns kept
	up x "$SLEEPER"$'\ndetach: false'
	up kept "$SLEEPER"
	pid=$(pid_of x) kept=$(pid_of kept)
	hold_namespace "$pid"
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status of boxlited"
	nothing_left "$pid" "$ns"
	gone "$kept" && fail "the detached box died with the daemon"
	start_daemon
	is x status stopped
	is kept status running
	ctl x start
	pid=$(pid_of x)
	hold_namespace "$pid"
	kill_daemon
	await "the box to die with its daemon" 5 gone "$pid"
	echo "$ns" >"$W/ns"
	await "all of its processes to be gone" 5 namespaces_empty "$W/ns"
	gone "$kept" && fail "the detached box died with the daemon"
	start_daemon
	is x status stopped
	is x pid -1
}

@test "a name of 64 letters runs as any other" {
	local name
	name=$(printf 'n%.0s' {1..64})
	up "$name" "$SLEEPER"
	ctl "$name" stop
	is "$name" exit_code 143
}

@test "fifty boxes live at once" {
	local i
	watch_fds
	ok bash -c 'cd "$1" && for i in {1..50}; do mkdir b$i && echo "command: [sleep, infinity]" >b$i/config.yaml && echo start >b$i/ctl || exit 1; done' \
		sh "$MNT/boxes"
	ok sh -c 'cat "$1"/*/status | sort | uniq -c' sh "$MNT/boxes"
	assert "$(xargs <<<"$out")" = "50 running" "states"
	assert "$(live_shims | wc -l)" -eq 50 "shims"
	ok bash -c 'cd "$1" && for b in *; do echo kill >$b/ctl && rmdir $b || exit 1; done' sh "$MNT/boxes"
	no_shims || fail "shims are left: $(live_shims | xargs)"
}
