#!/usr/bin/env bats
#
# The files that block: what they wait for, what wakes them, and that nobody
# hangs in them who does not want to.

load helpers

setup() {
	common_setup
	start_daemon
	box x "$SLEEPER"
	X=$MNT/boxes/x
}

@test "wait/running blocks until the box runs" {
	bg a cat "$X/wait/running"
	await_blocked a
	ctl x start
	join a 2
	assert "$out" = running "text"
	assert "$(wc -c <"$W/a.out")" -eq 8 "bytes"
	rd x/wait/running
	assert "$out" = running "text for a box that runs"
}

@test "wait/running waits for an empty box to be configured and started" {
	box y
	bg a cat "$MNT/boxes/y/wait/running"
	await_blocked a
	configure y <<<"$SLEEPER"
	blocked a || fail "woke on the config"
	ctl y start
	join a 2
	assert "$out" = running "text"
}

@test "wait/running is ECANCELED for a box that stopped, failed or is removed" {
	ctl x start
	ctl x kill
	refused ECANCELED cat "$X/wait/running"
	box f 'command: [no-such-command]'
	bg a cat "$MNT/boxes/f/wait/running"
	await_blocked a
	ctl_refused EIO f start
	join a 2
	assert "$rc" -ne 0 "status"
	assert "$err" has "${ERRNO_TEXT[ECANCELED]}" "reader of a box that failed"
	refused ECANCELED cat "$MNT/boxes/f/wait/running"
	box r "$SLEEPER"
	bg b cat "$MNT/boxes/r/wait/running"
	await_blocked b
	ok rmdir "$MNT/boxes/r"
	join b 2
	assert "$err" has "${ERRNO_TEXT[ECANCELED]}" "reader of a box that was removed"
}

@test "cat wait/running || exit works in a script" {
	box f 'command: [no-such-command]'
	try bash -c 'echo start >"$1/ctl"; cat "$1/wait/running" || { cat "$1/last_error"; exit 3; }' sh "$MNT/boxes/f"
	assert "$rc" -eq 3 "status"
	assert "$out" =~ 'no-such-command' "last_error"
}

@test "wait/stopped blocks until no process is left and prints the exit code" {
	ctl x start
	bg a cat "$X/wait/stopped"
	await_blocked a
	ctl x stop
	join a 2
	assert "$out" = 143 "text"
	rd x/wait/stopped
	assert "$out" = 143 "text without a process"
}

@test "wait/stopped and wait/exit answer at once where there is no process" {
	box y
	rd y/wait/stopped y/wait/exit
	assert "$out" = $'-1\n-1' "empty box"
	rd x/wait/stopped x/wait/exit
	assert "$out" = $'-1\n-1' "configured box"
}

@test "wait/exit is bound to the run that goes on at open" {
	local pid
	box y 'command: [sh, -c, "sleep infinity & wait; exit 9"]'
	ctl y start
	bg a cat "$MNT/boxes/y/wait/exit"
	bg b cat "$MNT/boxes/y/wait/exit"
	await_blocked a b
	pid=$(pid_of y)
	ctl y 'restart 1s'
	is y status running
	join a 2
	assert "$out" = 143 "exit code of the run that ended"
	join b 2
	assert "$out" = 143 "exit code of the run that ended"
	bg c cat "$MNT/boxes/y/wait/exit"
	await_blocked c
	ctl y kill
	join c 2
	assert "$out" = 137 "exit code of the second run"
}

@test "a quick restart in a loop hides no end from wait/exit" {
	local i
	ctl x start
	for i in {1..10}; do
		bg "r$i" cat "$X/wait/exit"
		await_blocked "r$i"
		ctl x $'kill\nstart'
		join "r$i" 2
		assert "$out" = 137 "round $i"
	done
}

@test "wait/stopped does not end at a restart" {
	ctl x start
	bg a cat "$X/wait/stopped"
	await_blocked a
	ctl x restart
	await_blocked a
	ctl x kill
	join a 2
	assert "$out" = 137 "text"
}

@test "wait/log gives the log from open on, without delay, until the run ends" {
	script y <<<'echo before; trap "echo after; exit 0" USR1; while :; do sleep 0.02; done'
	ctl y start
	logs y before
	bg a cat "$MNT/boxes/y/wait/log"
	await_blocked a
	ctl y 'signal USR1'
	rd y/wait/stopped
	join a 2
	assert "$rc" -eq 0 "status"
	assert "$out" = after "text"
}

@test "wait/log shows a line while the run goes on" {
	script y <<<'echo ready; trap "echo line" USR1; while :; do sleep 0.02; done'
	ctl y start
	logs y ready
	bg a cat "$MNT/boxes/y/wait/log"
	await_blocked a
	ctl y 'signal USR1'
	await "the line" 2 grep -q line "$W/a.out"
	await_blocked a
	ctl y kill
	join a 2
	assert "$rc" -eq 0 "status"
}

@test "wait/event of a box gives its events from open on" {
	box y "$SLEEPER"
	bg a cat "$X/wait/event"
	await_blocked a
	ctl y start
	ctl x start
	ctl x kill
	await "the last event" 2 grep -q to=stopped "$W/a.out"
	assert "$(grep -c ' y ' "$W/a.out")" -eq 0 "events of another box"
	assert "$(grep -c created "$W/a.out")" -eq 0 "events from before the open"
	assert "$(grep ' status ' "$W/a.out" | sed -n 's/.* to=//p' | cut -d' ' -f1 | xargs)" = "starting running stopping stopped" "states"
	kill -INT "${PID[a]}"
	join a 2
}

@test "wait/event of the root gives the events of all boxes" {
	bg a cat "$MNT/wait/event"
	await_blocked a
	ctl x start
	box y "$SLEEPER"
	await "the event" 2 grep -q ' y created' "$W/a.out"
	assert "$(grep -c ' x status .*to=running' "$W/a.out")" -eq 1 "start of x"
	ok sh -c 'while read -r seq time box event detail; do echo "$box $event"; done <"$1"' sh "$W/a.out"
	assert "$out" =~ 'y created' "columns"
}

@test "O_NONBLOCK gives EAGAIN, and what is ready at once" {
	ctl x start
	py 'import errno, os, sys
for name in ["wait/stopped", "wait/exit", "wait/log", "wait/event"]:
    fd = os.open(os.path.join(sys.argv[1], name), os.O_RDONLY | os.O_NONBLOCK)
    try:
        print(name, os.read(fd, 100))
    except OSError as e:
        print(name, errno.errorcode[e.errno])
    os.close(fd)
fd = os.open(os.path.join(sys.argv[1], "wait/running"), os.O_RDONLY | os.O_NONBLOCK)
print(os.read(fd, 100))' "$X"
	assert "$out" = $'wait/stopped EAGAIN\nwait/exit EAGAIN\nwait/log EAGAIN\nwait/event EAGAIN\nb\'running\\n\'' "reads"
	ok dd if="$X/wait/running" iflag=nonblock status=none
	refused EAGAIN dd if="$MNT/wait/event" iflag=nonblock status=none
}

@test "grep -r and cat of everything do not hang" {
	ctl x start
	try grep -r running "$MNT"
	assert "$out" has status:running "grep -r"
	try sh -c 'cat "$1"/boxes/*/* 2>/dev/null' sh "$MNT"
	assert "$out" has running "cat boxes/*/*"
}

@test "Ctrl-C and SIGKILL end a blocked read at once" {
	local sig f
	ctl x start
	for f in wait/stopped wait/exit wait/log wait/event; do
		for sig in INT KILL; do
			bg a cat "$X/$f"
			await_blocked a
			kill -s "$sig" "${PID[a]}"
			join a 1
			assert "$rc" -ne 0 "status of the reader of $f after SIG$sig"
		done
	done
	bg a cat "$MNT/wait/event"
	await_blocked a
	kill -KILL "${PID[a]}"
	join a 1
}

@test "timeout bounds a wait" {
	refused_by_timeout() {
		rc=0
		t timeout 0.3 cat "$X/wait/running" >"$W/out" 2>&1 || rc=$?
		assert "$rc" -eq 124 "status of timeout"
	}
	refused_by_timeout
}

@test "blocked readers of a removed box wake at once" {
	bg a cat "$X/wait/running"
	bg b cat "$X/wait/event"
	await_blocked a b
	ok rmdir "$X"
	join a 2
	assert "$rc" -ne 0 "reader of wait/running"
	join b 2
	ok cat "$MNT/version"
}

@test "two hundred blocked readers disturb nobody and all wake" {
	ctl x start
	watch_fds
	bg many bash -c 'for i in {1..200}; do cat "$1/wait/exit" & done; wait' sh "$X"
	waiting() { (($(fuse_waiting) >= 200)); }
	await "200 readers" 20 waiting
	T=2 is x status running
	T=2 ok ls -l "$X"
	T=2 box y "$SLEEPER"
	ctl x kill
	join many 5
	assert "$(grep -c '^137$' "$W/many.out")" -eq 200 "readers that got the exit code"
}

# fuse_waiting: requests of the mount that have no answer yet.
fuse_waiting() {
	local dev
	dev=$(awk -v m="$MNT" '$5 == m {print $3}' /proc/self/mountinfo)
	cat "/sys/fs/fuse/connections/${dev#*:}/waiting"
}

@test "a reader that waits does not keep the others from the same file" {
	bg a cat "$X/wait/running"
	bg b cat "$X/wait/running"
	await_blocked a b
	kill -KILL "${PID[a]}"
	join a 1
	blocked b || fail "the second reader woke with the first"
	ctl x start
	join b 2
	assert "$out" = running "second reader"
}
