#!/usr/bin/env bats
#
# boxlited itself: flags, exit codes, signals, its lock and its mount, and what
# its death does to clients and boxes.

load helpers

# ends CODE ARG…: boxlited with these arguments ends by itself with CODE.
ends() {
	local code=$1
	shift
	try "$BOXLITED" "$@"
	assert "$rc" -eq "$code" "exit status of boxlited $*: $err"
}

@test "--version prints one line with the name and the commit" {
	ends 0 --version
	assert "$out" =~ '^boxlited ' "version"
	assert "$(wc -l <"$W/out")" -eq 1 "lines"
	start_daemon
	local version=$out
	ok cat "$MNT/version"
	assert "$out" = "$version" "the file version"
}

@test "--help tells the flags, their defaults, examples and the exit codes" {
	ends 0 --help
	local word help=$out$err
	for word in --mount --state --shim --log-level --log-format --version /run/boxlite /var/lib/boxlite Example 'xit'; do
		assert "$help" has "$word" "help"
	done
	for word in 0 1 2 3 4 5 6; do
		assert "$help" =~ "(^|[^0-9])${word}[^0-9]" "exit codes in the help"
	done
}

@test "wrong usage is exit code 2" {
	ends 2 --no-such-flag
	assert "$err" =~ 'no-such-flag' "message"
	ends 2 --mount "$MNT" --state "$STATE" extra
	ends 2 --mount "$MNT" --state "$STATE" --log-level loud
	ends 2 --mount "$MNT" --state "$STATE" --log-format xml
	ends 2 --mount '' --state "$STATE"
	assert "$(mount_count)" -eq 0 "mounts"
}

@test "a locked state directory is exit code 3, and says who holds it" {
	start_daemon
	mkdir "$W/other"
	ends 3 --mount "$W/other" --state "$STATE"
	assert "$err" has "another boxlited (pid $DAEMON) is using $STATE" "message"
	ends 3 --mount "$MNT" --state "$STATE"
	assert "$(mount_count)" -eq 1 "mounts"
	box x "$SLEEPER"
	is x status configured
}

@test "a mount that cannot be made is exit code 4" {
	echo file >"$W/file"
	ends 4 --mount "$W/file" --state "$STATE"
	ends 4 --mount /proc/nowhere --state "$STATE"
}

@test "a live foreign mount is refused with exit code 4 and left alone" {
	start_daemon
	ends 4 --mount "$MNT" --state "$W/state2"
	assert "$(mount_count)" -eq 1 "mounts"
	ok cat "$MNT/version"
	mkdir "$W/tmpfs"
	mount -t tmpfs none "$W/tmpfs"
	echo kept >"$W/tmpfs/file"
	ends 4 --mount "$W/tmpfs" --state "$W/state3"
	assert "$(<"$W/tmpfs/file")" = kept "file of the foreign mount"
	umount "$W/tmpfs"
}

@test "an unusable state directory is exit code 5" {
	echo file >"$W/file"
	ends 5 --mount "$MNT" --state "$W/file"
	ends 5 --mount "$MNT" --state "$W/file/below"
	mkdir "$W/ro"
	mount -t tmpfs -o ro none "$W/ro"
	ends 5 --mount "$MNT" --state "$W/ro/state"
	umount "$W/ro"
	assert "$(mount_count)" -eq 0 "mounts"
}

@test "a state directory under the mount is refused" {
	ends 2 --mount "$MNT" --state "$MNT/state"
	assert "$err" has "$MNT/state" "message"
	ends 2 --mount "$MNT" --state "$MNT"
	ln -s "$MNT" "$W/link"
	ends 2 --mount "$MNT" --state "$W/link/state"
	assert "$(mount_count)" -eq 0 "mounts"
}

@test "a missing shim is exit code 6" {
	ends 6 --mount "$MNT" --state "$STATE" --shim "$W/nowhere"
	assert "$err" has nowhere "message"
	echo data >"$W/data"
	ends 6 --mount "$MNT" --state "$STATE" --shim "$W/data"
	assert "$(mount_count)" -eq 0 "mounts"
}

@test "a /proc of another pid namespace is refused, and said to be" {
	try unshare --pid --fork --kill-child "$BOXLITED" --mount "$MNT" --state "$STATE" --shim "$SHIM"
	assert "$rc" -eq 1 "exit status: $err"
	assert "$err" has '/proc belongs to another pid namespace' "what it says"
	assert "$(mount_count)" -eq 0 "mounts"
}

@test "the shim is looked for beside the daemon" {
	echo "[bg] boxlited without --shim" >>"$CALLS"
	"$BOXLITED" --mount "$MNT" --state "$STATE" </dev/null >>"$LOG" 2>&1 3>&- 4>&- &
	DAEMON=$!
	await "the daemon" 5 daemon_up_or_dead
	up x "$SLEEPER"
	assert "$(live_shims)" = "$(pid_of x)" "the shim"
}

@test "READY=1 comes when the mount answers" {
	bg notify /usr/bin/python3 -c 'import os, socket, subprocess, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
open(sys.argv[1] + ".bound", "w")
s.settimeout(20)
while True:
    m = s.recv(4096)
    if b"READY=1" in m.split(b"\n"):
        r = subprocess.run(["timeout", "2", "cat", sys.argv[2]], capture_output=True)
        print(r.returncode, r.stdout.decode().split()[:1], flush=True)
        break' "$W/notify" "$MNT/version"
	await "the socket" 5 test -e "$W/notify.bound"
	NOTIFY_SOCKET=$W/notify launch_daemon
	await "READY=1" 10 test -s "$W/notify.out"
	assert "$(<"$W/notify.out")" = "0 ['boxlited']" "a read at the moment of READY=1"
	box x $'command: [env]'
	ctl x start
	rd x/wait/stopped
	rd x/log
	assert "$out" !~ 'NOTIFY_SOCKET' "environment of the box"
	join notify 5
}

@test "SIGTERM, SIGINT and SIGHUP unmount, leave nothing and end with 0" {
	local sig
	LAUNCH=(env --default-signal=INT --default-signal=HUP)
	for sig in TERM INT HUP; do
		start_daemon
		box "x$sig"
		STOP_SIGNAL=$sig
		stop_daemon
		assert "$DAEMON_RC" -eq 0 "exit status after SIG$sig"
		assert "$(mount_count)" -eq 0 "mounts"
		no_shims || fail "shims are left"
	done
}

@test "SIGTERM ends the daemon within 2 s, whatever is open, and leaves detached boxes running" {
	local pid began f
	start_daemon
	up x "$SLEEPER"
	pid=$(pid_of x)
	for f in exit stopped log event; do
		bg "r-$f" cat "$MNT/boxes/x/wait/$f"
	done
	bg all cat "$MNT/wait/event"
	bg dir bash -c 'cd "$1" && exec sleep 60' sh "$MNT/boxes/x"
	bg file bash -c 'exec sleep 60 <"$1"' sh "$MNT/boxes/x/status"
	bg config bash -c 'exec sleep 60 >"$1"' sh "$MNT/boxes/x/config.yaml"
	await_blocked r-exit r-stopped r-log r-event all
	began=$(now)
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
	assert $(($(now) - began)) -le 2000 "milliseconds until the end"
	for f in exit stopped log event; do
		join "r-$f" 2
	done
	join all 2
	assert "$(mount_count)" -eq 0 "mounts"
	gone "$pid" && fail "the box ended with the daemon"
	kill_tree "${PID[dir]}"
	start_daemon
	is x status running
	is x pid "$pid"
	rd x/wait/running
	assert "$out" = running "wait/running"
	ctl x kill
	vanished_or_orphan() { vanished "$pid" || gone "$pid"; }
	await "the adopted box to end" 5 vanished_or_orphan
	is x status stopped
	is x exit_code 137
}

@test "a box that ends while there is no daemon is stopped, with its exit code" {
	start_daemon
	script x <<<'trap "exit 23" USR1; echo ready; while :; do sleep 0.02; done'
	ctl x start
	logs x ready
	local pid
	pid=$(pid_of x)
	stop_daemon
	kill -USR1 "$(box_command "$pid")"
	await "the box to end" 5 gone "$pid"
	start_daemon
	is x status stopped
	is x exit_code 23
	is x pid -1
	ctl x start
	is x status running
}

@test "a stop that waits does not hold up the end of the daemon" {
	start_daemon
	script x <<<'trap "" TERM; echo ready; while :; do sleep 0.1; done'
	ctl x start
	logs x ready
	bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 60s'
	becomes x status stopping
	local began
	began=$(now)
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
	assert $(($(now) - began)) -le 2000 "milliseconds until the end"
	join stop 2
}

@test "boxes and their configuration survive a restart of the daemon" {
	start_daemon
	box empty
	box conf $'command: [sleep, infinity]\nhostname: h # comment'
	box ended 'command: [sh, -c, "echo text; exit 4"]'
	ctl ended start
	rd ended/wait/stopped
	box bad 'command: [no-such-command]'
	ctl_refused EIO bad start
	rd bad/last_error
	local why=$out
	restart_daemon
	ok ls "$MNT/boxes"
	assert "$(xargs <<<"$out")" = "bad conf empty ended" "boxes"
	is empty status empty
	is conf status configured
	is conf config.yaml $'command: [sleep, infinity]\nhostname: h # comment'
	is ended status stopped
	is ended exit_code 4
	is ended log text
	is bad status failed
	is bad last_error "$why"
}

@test "SIGUSR1 dumps the goroutines and the daemon lives on" {
	start_daemon
	kill -USR1 "$DAEMON"
	dumped() { grep -q 'goroutine [0-9]' "$LOG"; }
	await "the dump" 5 dumped
	ok cat "$MNT/version"
	daemon_alive || fail "the daemon ended"
}

@test "json logs have the fields box, op, pid, state and err, and are all JSON" {
	start_daemon --log-format json
	up x "$SLEEPER"
	ctl x kill
	box y 'command: [no-such-command]'
	ctl_refused EIO y start
	stop_daemon
	py 'import json, sys
fields = set()
for line in open(sys.argv[1]):
    fields |= set(json.loads(line))
print(*sorted(f for f in ["box", "op", "pid", "state", "err"] if f not in fields))' "$LOG"
	assert "$out" = '' "fields that no line has"
}

@test "after a kill -9 clients get ENOTCONN, and none hangs" {
	start_daemon
	up x "$SLEEPER"
	bg reader cat "$MNT/boxes/x/wait/stopped"
	await_blocked reader
	local pid
	pid=$(pid_of x)
	kill_daemon
	# The box is alive: it must not hold the connection open.
	gone "$pid" && fail "the box ended with the daemon"
	join reader 2
	assert "$rc" -ne 0 "status of the blocked reader"
	T=2
	refused ENOTCONN ls "$MNT"
	refused ENOTCONN cat "$MNT/boxes/x/status"
}

@test "a start after a kill -9 cleans the dead mount and heals" {
	start_daemon
	up x "$SLEEPER"
	box y "$SLEEPER"
	local pid
	pid=$(pid_of x)
	kill_daemon
	assert "$(mount_count)" -eq 1 "dead mounts"
	start_daemon
	assert "$(mount_count)" -eq 1 "mounts"
	is x status running
	is x pid "$pid"
	is y status configured
	ctl x kill
	ok rmdir "$MNT/boxes/x"
}

@test "two dead mounts on top of each other are cleaned too" {
	start_daemon
	kill_daemon
	# Somebody mounted over it, as an older start would have.
	"$BOXLITED" --mount "$MNT" --state "$W/state2" --shim "$SHIM" </dev/null >>"$LOG" 2>&1 3>&- 4>&- &
	DAEMON=$! DAEMON_RC=''
	await "the second daemon" 5 daemon_up_or_dead
	kill_daemon
	start_daemon
	assert "$(mount_count)" -eq 1 "mounts"
	ok cat "$MNT/version"
}

@test "a dead mount with files still open is cleaned" {
	start_daemon
	box x
	bg dir bash -c 'cd "$1" && exec sleep 60' sh "$MNT/boxes"
	bg file bash -c 'exec sleep 60 <"$1"' sh "$MNT/version"
	kill_daemon
	start_daemon
	assert "$(mount_count)" -eq 1 "mounts"
	is x status empty
}

@test "half-made and half-removed boxes are finished, broken ones do not spoil the others" {
	start_daemon
	box whole "$SLEEPER"
	box broken 'command: [sh, -c, exit 3]'
	ctl broken start
	rd broken/wait/stopped
	stop_daemon
	mkdir -p "$STATE/boxes/halfmade" "$STATE/trash/halfgone/deep"
	: >"$STATE/boxes/broken/state.json"
	echo junk >"$STATE/boxes/file"
	mkdir "$STATE/boxes/.bad name"
	start_daemon
	is whole status configured
	ok ls -A "$MNT/boxes"
	assert "$(xargs <<<"$out")" =~ '^broken (halfmade )?whole$' "boxes"
	rd broken/status
	assert "$out" =~ '^(configured|stopped|failed)$' "status of the broken box"
	ctl whole start
	is whole status running
	trash_empty() { [[ -z $(ls -A "$STATE/trash") ]]; }
	await "the trash to be emptied" 5 trash_empty
}

@test "what is kept on disk is for its owner only" {
	start_daemon
	box x $'command: [sleep, infinity]\nenv: {TOKEN: secret}'
	ctl x start
	ok "${NOBODY[@]}" test -d "$W"
	try "${NOBODY[@]}" cat "$STATE/boxes/x/config.yaml"
	assert "$rc" -ne 0 "reading the config through the state directory"
	try "${NOBODY[@]}" ls "$STATE/boxes"
	assert "$rc" -ne 0 "listing the state directory"
}

@test "the length of the state's path does not matter" {
	STATE=$W/$(printf 'd%.0s' {1..100})/$(printf 'e%.0s' {1..100})/state
	mkdir -p "$STATE"
	start_daemon
	local name
	name=$(printf 'n%.0s' {1..64})
	up "$name" "$SLEEPER"
	ctl "$name" stop
	is "$name" exit_code 143
}

@test "an idle daemon does not wake up" {
	start_daemon
	up x "$SLEEPER"
	local before after
	switches() { cat /proc/"$DAEMON"/task/*/status | awk '/ctxt_switches/ {n += $2} END {print n}'; }
	await "the daemon to settle" 10 settled
	before=$(switches)
	# That nothing happens can only be seen over a time.
	sleep 2
	after=$(switches)
	assert $((after - before)) -le 20 "context switches in 2 s of idleness"
}

settled() {
	local a
	a=$(cat /proc/"$DAEMON"/task/*/status | awk '/ctxt_switches/ {n += $2} END {print n}')
	sleep 0.5
	(($(cat /proc/"$DAEMON"/task/*/status | awk '/ctxt_switches/ {n += $2} END {print n}') - a <= 5))
}

@test "the mount is nodev and nosuid, of type fuse.boxlite" {
	start_daemon
	assert "$(mount_type)" = fuse.boxlite "type"
	local opts
	opts=$(awk -v m="$MNT" '$5 == m {print $6}' /proc/self/mountinfo)
	assert "$opts" =~ 'nosuid' "options"
	assert "$opts" =~ 'nodev' "options"
}
