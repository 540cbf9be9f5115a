#!/usr/bin/env bats
#
# The daemon itself: what it lacks on its host, and what is done to it there, ends in a
# refusal with a sentence, and in neither its end nor a wait.

load helpers

setup() { common_setup; }

# --- tasks -------------------------------------------------------------------

# tasks_group: makes a cgroup that can limit tasks, $TASKS, for what LAUNCH starts. It is
# made in that of the test, whose limits hold, too.
tasks_group() {
	TASKS=$(cgroup_of $$ pids)
	TASKS=${TASKS%/}/${W##*.}
	if ! mkdir "$TASKS" || [[ ! -e $TASKS/pids.max ]]; then
		TASKS=/sys/fs/cgroup/${W##*.} # on v2: a group with processes hands nothing down
		mkdir -p "$TASKS"
		[[ -e $TASKS/pids.max ]] || fail "no cgroup that limits tasks"
	fi
	# shellcheck disable=SC2016
	LAUNCH=(sh -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$TASKS")
}

teardown() {
	local left=0
	[[ -z ${TASKS:-} ]] || echo max >"$TASKS/pids.max"
	common_teardown || left=1
	[[ -z ${TASKS:-} ]] || await_quietly 5 rmdir "$TASKS" || left=1
	return $left
}

threads() { sed -n 's/^Threads:\t//p' "/proc/$1/status"; }

@test "at its cgroup's limit of tasks the daemon lives and refuses, and so do its shims" {
	tasks_group
	start_daemon
	local i pids='' shim before=() made
	for i in 1 2 3 4; do
		up "r$i" '{command: [sleep, infinity], health_check: {command: ["true"], interval: 1s}}'
		before+=("$(threads "$(pid_of "r$i")")")
		assert "${before[-1]}" -ge 6 "threads that a shim has from its start: three for what it does, and those of the Go runtime"
		box "s$i" 'command: [sleep, infinity]'
		ok mkdir "$MNT/boxes/r$i/exec/e"
	done
	made=$(threads "$DAEMON")
	echo "$(($(<"$TASKS/pids.current") + 1))" >"$TASKS/pids.max"
	flood() { # of one box that runs, and one that can't
		local n
		for n in 1 2; do
			t "${ECHO[@]}" "$MNT/boxes/s$1/ctl" start
			t cat "$MNT/boxes/r$1/info.json" "$MNT/boxes/r$1/log" "$MNT/metrics"
			t chmod 640 "$MNT/boxes/r$1/log"
			t "${ECHO[@]}" "$MNT/boxes/r$1/exec/e/cmd" true
		done
	}
	for i in 1 2 3 4; do
		flood "$i" </dev/null >/dev/null 2>&1 3>&- 4>&- &
		pids+=" $!"
	done
	# shellcheck disable=SC2086
	wait $pids || :
	daemon_alive || fail "the daemon has ended: $(grep -m 3 -e '^runtime:' -e '^fatal' -e '^panic' "$LOG")"
	assert "$(threads "$DAEMON")" -eq "$made" "threads of the daemon, after it has worked"
	is s1 status failed
	rd s1/last_error
	assert "$out" has "tasks that it may have" "why s1 cannot be started"
	assert "$out" has "TasksMax=infinity" "what helps"
	for i in 1 2 3 4; do
		is "r$i" status running
		shim=$(pid_of "r$i")
		assert "$(threads "$shim")" -eq "${before[i - 1]}" "threads of the shim of r$i"
	done
	echo max >"$TASKS/pids.max"
	ctl s1 start
	is s1 status running
}

@test "a daemon without room for its threads says which cgroup limits them" {
	tasks_group
	echo 20 >"$TASKS/pids.max"
	launch_daemon
	await_daemon
	assert "$DAEMON_RC" -eq 1 "exit status"
	assert "$(<"$LOG")" =~ "cgroup $TASKS has room for 1[0-9] of its 20 tasks: write more to its pids.max; in a systemd unit that is TasksMax=infinity" "what it says"
}

# --- the log -----------------------------------------------------------------

# complain N: makes the daemon say something, N times.
complain() {
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
for _ in range(int(sys.argv[2])):
    try:
        os.write(fd, b"bogus\n")
    except OSError:
        pass' "$MNT/boxes/a/ctl" "$1"
}

dropped() { t cat "$MNT/metrics" | sed -n 's/^boxlite_log_dropped_lines_total //p'; }

@test "a log that nobody reads holds up nothing, and what was dropped of it is told" {
	mkfifo "$W/fifo"
	exec 7<>"$W/fifo"
	# shellcheck disable=SC2016
	LAUNCH=(sh -c 'exec "$@" 2>"$0"' "$W/fifo")
	start_daemon
	box a "$SLEEPER"
	assert "$(dropped)" = 0 "lines dropped at first"
	local n=0
	while ((++n < 20)) && [[ $(dropped) == 0 ]]; do
		complain 500
	done
	local lost
	lost=$(dropped)
	assert "$lost" != 0 "lines dropped while nobody reads"
	up b "$SLEEPER"
	ctl b kill
	ctl a start
	is a status running
	# Somebody reads again.
	cat <&7 >"$W/read" 7<&- &
	BG_PIDS+=("$!")
	told() {
		t chmod 640 "$MNT/boxes/a/log"
		complain 1
		grep -q 'msg="dropped [0-9]* lines: nobody has read the log" op=log' "$W/read"
	}
	await "the daemon to say what is lost" 5 told
	assert "$(sed -n 's/.*msg="dropped \([0-9]*\) lines.*/\1/p' "$W/read" | head -n 1)" -ge "$lost" "lines told to be lost"
	kill_tree "${BG_PIDS[-1]}"
	wait "${BG_PIDS[-1]}" || :
	# And no more.
	complain 5000
	local began
	began=$(now)
	kill -TERM "$DAEMON"
	await_daemon 5
	assert "$DAEMON_RC" -eq 0 "exit status"
	assert "$(($(now) - began))" -lt 2000 "milliseconds that the end took"
	exec 7<&-
}

@test "a crash is over also if nobody reads its report" {
	mkfifo "$W/fifo"
	exec 7<>"$W/fifo"
	# shellcheck disable=SC2016
	LAUNCH=(sh -c 'exec "$@" 2>"$0"' "$W/fifo")
	start_daemon
	box a "$SLEEPER"
	complain 2000 # more than the pipe holds
	local notifier
	notifier=$(notifier_of "$DAEMON")
	DAEMON_KILLED=yes
	kill -QUIT "$DAEMON"
	await_quietly 5 gone "$DAEMON" || {
		cat <&7 >/dev/null 7<&- & # or its end would be waited for
		BG_PIDS+=("$!")
		fail "it has not ended after 5 s"
	}
	reap_daemon
	await "its notifier to go" 5 vanished "$notifier"
	assert "$DAEMON_RC" -eq 2 "exit status of a crash"
	exec 7<&-
}

# --- clocks ------------------------------------------------------------------

# reset_clock HOURS: the daemon is killed, and the next one finds the records of one whose
# clock was ahead by so much. Nobody sets the clock of this machine.
reset_clock() {
	kill_daemon
	py 'import datetime, glob, json, re, sys
off = datetime.timedelta(hours=int(sys.argv[2]))
def ahead(x):
    if isinstance(x, dict): return {k: ahead(v) for k, v in x.items()}
    if isinstance(x, str) and re.match(r"20\d\d-\d\d-\d\dT.*Z$", x): return (datetime.datetime.fromisoformat(x[:19]) + off).isoformat() + "Z"
    return x
for path in glob.glob(sys.argv[1] + "/boxes/*/s*.json"):
    record = ahead(json.load(open(path)))
    json.dump(record, open(path, "w"))' "$STATE" "$1"
	start_daemon
}

expires() { [[ $(t cat "$MNT/boxes/$1/last_error") == "expired: "* ]] && has "$1" status stopped; }

@test "a clock that was ahead keeps no box beyond its time" {
	start_daemon
	up idle "$SLEEPER"$'\n''expire: {idle: 3s}'
	up after "$SLEEPER"$'\n''expire: {after: 3s}'
	await "the records" 5 grep -q active_at_ns "$STATE/boxes/idle/state.json"
	reset_clock 1
	await "idle to expire" 5 expires idle
	await "after to expire" 5 expires after
}

@test "a clock that was behind takes no time from a box" {
	start_daemon
	up idle "$SLEEPER"$'\n''expire: {idle: 5m}'
	up after "$SLEEPER"$'\n''expire: {after: 5m}'
	up ill "$SLEEPER"$'\n''health_check: {command: ["false"], interval: 100ms, retries: 1, start_period: 5m}'
	script row 'restart: {policy: always}' <<-EOF
		echo x >>$W/runs
		[ \$(wc -l <$W/runs) -ge 3 ] || exit 1
		exec sleep infinity
	EOF
	ctl row start
	third() { [[ -e $W/runs ]] && (($(wc -l <"$W/runs") == 3)) && has row status running; }
	await "the third run" 5 third
	await "the records" 5 grep -q '"retries":2' "$STATE/boxes/row/state.json"
	reset_clock -1
	# It runs for a few seconds, and not for an hour: its next restart is one more of the row.
	kill -KILL "$(box_command "$(pid_of row)")"
	await "the row to be longer by one" 5 grep -q '"retries":3' "$STATE/boxes/row/state.json"
	is ill health starting
	local b
	for b in idle after; do
		is "$b" status running
	done
}

@test "what is timed goes on while the machine is suspended" {
	start_daemon
	up x "$SLEEPER"
	local clocks
	clocks=$(cat "/proc/$DAEMON/fdinfo/"* 2>/dev/null | sed -n 's/^clockid: //p' | sort -u)
	assert "$clocks" = 7 "clocks of the daemon's timers: 7 is CLOCK_BOOTTIME"
}

# --- the end -----------------------------------------------------------------

# rubbish DIR N: a directory with N files.
rubbish() {
	mkdir -p "$1"
	py 'import os, sys
top, n = sys.argv[1], int(sys.argv[2])
for i in range(n):
    if i % 10000 == 0:
        at = "%s/%d" % (top, i)
        os.mkdir(at)
        open(at + "/f", "w").close()
    else:
        os.link(at + "/f", "%s/%d" % (at, i))' "$1" "$2"
}

left_of() { find "$1" 2>/dev/null | wc -l; }

@test "the end does not wait for what is being deleted, and the next daemon goes on" {
	# What earlier removals of boxes and images have left; and a box that is removed now.
	rubbish "$STATE/trash/x" 120000
	rubbish "$STATE/images/trash/y" 1000
	start_daemon
	box x "$SLEEPER"
	mkdir -p "$STATE/boxes/x/container"
	rubbish "$STATE/boxes/x/container/upper" 1000
	ok rmdir "$MNT/boxes/x"
	local began
	began=$(now)
	kill -TERM "$DAEMON"
	await_daemon 5
	assert "$DAEMON_RC" -eq 0 "exit status"
	assert "$(($(now) - began))" -lt 2000 "milliseconds that the end took"
	assert "$(left_of "$STATE/trash/x")" -gt 10000 "files left to delete, or there was nothing to wait for"
	start_daemon
	all_gone() { (($(left_of "$STATE/trash") == 1 && $(left_of "$STATE/images/trash") == 1)); }
	await "the rest to be deleted" 30 all_gone
}

# --- descriptors -------------------------------------------------------------

@test "a start that finds no descriptor says so, and whose limit it is" {
	start_daemon
	box x "$SLEEPER"
	local limit
	limit=$(($(daemon_fds) + 3))
	ok prlimit --pid "$DAEMON" --nofile="$limit:"
	ctl_refused EIO x start
	rd x/last_error
	assert "$out" =~ "too many open files .*\\(boxlited may have $limit: give it more with ulimit -n, in a systemd unit with LimitNOFILE=\\)" "why it cannot start"
	ok prlimit --pid "$DAEMON" --nofile=1024:
	ctl x start
	is x status running
}

@test "a daemon with too few descriptors for its boxes says so, and loses nothing of them" {
	start_daemon
	local i limit
	for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
		up "x$i" "$SLEEPER"
		ok chmod 600 "$MNT/boxes/x$i/status"
	done
	stop_daemon
	for limit in 14 18 22 26 30 36 44; do
		: >"$LOG"
		# shellcheck disable=SC2016
		LAUNCH=(sh -c 'ulimit -n "$0" && exec "$@"' "$limit")
		launch_daemon
		await "the daemon to be up, or not" 10 daemon_up_or_dead
		if daemon_alive; then
			stop_daemon
			continue
		fi
		reap_daemon
		assert "$DAEMON_RC" != 0 "exit status with $limit descriptors"
		assert "$(<"$LOG")" has "too many open files (boxlited may have $limit: give it more" "what it says of $limit descriptors"
		assert "$(<"$LOG")" !~ "another boxlited" "what it says of $limit descriptors"
	done
	LAUNCH=()
	start_daemon
	for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
		is "x$i" status running
		assert "$(t stat -c %a "$MNT/boxes/x$i/status")" = 600 "mode of x$i/status"
	done
}
