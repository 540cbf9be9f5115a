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
	local i pids='' shim before=() daemon
	for i in 1 2 3 4; do
		up "r$i" '{command: [sleep, infinity], health_check: {command: ["true"], interval: 1s}}'
		before+=("$(threads "$(pid_of "r$i")")")
		assert "${before[-1]}" -ge 5 "threads that a shim has from its start: two for what it does, and those of the Go runtime"
		box "s$i" 'command: [sleep, infinity]'
		ok mkdir "$MNT/boxes/r$i/exec/e"
	done
	daemon=$(threads "$DAEMON")
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
	assert "$(threads "$DAEMON")" -eq "$daemon" "threads of the daemon, after it has worked"
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
