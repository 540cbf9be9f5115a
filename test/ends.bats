#!/usr/bin/env bats
#
# The ends of boxes, execs and of the daemon itself that nobody may miss or make up: what
# a signal means, whose a shim is, and how an end is known where it cannot be written down.

load helpers

# A box that says that it was asked to end, and does.
POLITE='command: [sh, -c, "trap \"echo asked; exit 5\" TERM; echo ready; while :; do sleep 0.02; done"]'

# ignored PID SIGNAL: the process ignores it.
ignored() {
	local mask
	mask=$(sed -n 's/^SigIgn:\t//p' "/proc/$1/status")
	(((0x$mask >> ($(kill -l "$2") - 1)) & 1))
}

@test "a daemon that was started with SIGHUP and SIGINT ignored leaves them so" {
	local sig
	LAUNCH=(env --ignore-signal=HUP,INT)
	start_daemon
	up x "$POLITE"$'\n''detach: false'
	for sig in HUP INT; do
		ignored "$DAEMON" "$sig" || fail "SIG$sig is taken again"
		kill -s "$sig" "$DAEMON"
		is x status running
		daemon_alive || fail "SIG$sig has ended the daemon"
	done
	# Its shims take them all the same, and what runs in a box begins as anywhere.
	logs x ready
	! ignored "$(box_command "$(pid_of x)")" HUP || fail "the box's command ignores SIGHUP"
	kill -HUP "$(pid_of x)"
	rd x/wait/stopped
	assert "$out" = 5 "exit code"
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
}

@test "SIGHUP, SIGINT, SIGQUIT and SIGTERM to a shim stop its box" {
	local sig
	start_daemon
	for sig in HUP INT QUIT TERM; do
		# A stop that was asked for is not undone by the policy.
		up "x$sig" "$POLITE"$'\n''restart: {policy: always}'
		logs "x$sig" ready
		kill -s "$sig" "$(pid_of "x$sig")"
		rd "x$sig/wait/stopped"
		assert "$out" = 5 "exit code after SIG$sig"
		is "x$sig" status stopped
		is "x$sig" last_error ok
		is "x$sig" health none
		logs "x$sig" asked
	done
	ok grep -x 'boxlite_stops_total{cause="term"} 4' "$MNT/metrics"
	# The same from within: the shim is pid 1 of the box.
	box in 'command: [sh, -c, "trap \"exit 6\" TERM; kill -QUIT 1; while :; do sleep 0.02; done"]'
	ctl in start
	rd in/wait/stopped
	assert "$out" = 6 "exit code after SIGQUIT from within"
	is in status stopped
}

@test "a signal that means a fault of the shim is told as one" {
	local sig
	start_daemon
	for sig in ABRT SEGV; do
		up "x$sig" "$SLEEPER"
		kill -s "$sig" "$(pid_of "x$sig")"
		rd "x$sig/wait/stopped"
		is "x$sig" status failed
		rd "x$sig/last_error"
		assert "$out" has "its log is $STATE/boxes/x$sig/shim.log" "last_error"
		ok grep -q "SIG$sig" "$STATE/boxes/x$sig/shim.log"
	done
}

# other MOUNT STATE COMMAND…: a command of these helpers, for the daemon on another state
# directory.
other() {
	local MNT=$1 STATE=$2
	"${@:3}"
}

# exec_in BOX EXEC CMD: a command beside the box's own, that runs.
exec_in() {
	ok mkdir "$MNT/boxes/$1/exec/$2"
	ok "${ECHO[@]}" "$MNT/boxes/$1/exec/$2/cmd" "$3"
}

@test "a copy of a state directory finds its boxes stopped, and leaves those of the original alone" {
	local first pid name group
	start_daemon
	first=$DAEMON
	up e "$SLEEPER"
	up a "$SLEEPER"$'\n''restart: {policy: always}'$'\n''autostart: true'
	up gone "$SLEEPER"$'\n''restart: {policy: always}'
	up again "$SLEEPER"
	up once "$SLEEPER"$'\n''remove_on_exit: true'
	exec_in e x 'sleep 1000'
	ok cp -a "$STATE" "$W/copy"
	mkdir "$W/mnt2"
	local -A pids=()
	for name in e a gone once; do
		pids[$name]=$(pid_of "$name")
	done
	# By now it is another run that has the cgroup which the copy has on record.
	ctl again restart
	group=$(cgroup_of "$(box_command "$(pid_of again)")" cpu)
	mkdir "$group/inner"

	other "$W/mnt2" "$W/copy" start_daemon
	for name in e gone once; do
		other "$W/mnt2" "$W/copy" is "$name" status stopped
		other "$W/mnt2" "$W/copy" is "$name" pid -1
		other "$W/mnt2" "$W/copy" is "$name" exit_code -1
		other "$W/mnt2" "$W/copy" rd "$name/last_error"
		assert "$out" has "is a copy: the run that is on record is process ${pids[$name]}, which belongs to $STATE/boxes/$name" "last_error"
	done
	other "$W/mnt2" "$W/copy" is e exec/x/status stopped
	other "$W/mnt2" "$W/copy" is e exec/x/exit_code -1
	other "$W/mnt2" "$W/copy" is again status stopped
	[[ -d $group/inner ]] || fail "a cgroup of the original's box is gone"
	rmdir "$group/inner"
	# It has boxes of its own from there on.
	other "$W/mnt2" "$W/copy" becomes a status running
	assert "$(other "$W/mnt2" "$W/copy" pid_of a)" != "${pids[a]}" "pid of the copy's box"
	other "$W/mnt2" "$W/copy" ctl e kill
	other "$W/mnt2" "$W/copy" ctl e start
	other "$W/mnt2" "$W/copy" ctl e kill
	other "$W/mnt2" "$W/copy" ctl a kill
	ctl gone kill
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status of the second"

	# What has ended meanwhile was none of its business either.
	other "$W/mnt2" "$W/copy" start_daemon
	other "$W/mnt2" "$W/copy" is gone status stopped
	other "$W/mnt2" "$W/copy" is gone exit_code -1
	other "$W/mnt2" "$W/copy" is e exit_code 137
	other "$W/mnt2" "$W/copy" is e exec/x/exit_code -1
	other "$W/mnt2" "$W/copy" becomes a status running
	other "$W/mnt2" "$W/copy" ctl a kill
	stop_daemon

	DAEMON=$first DAEMON_RC=''
	for name in e a once; do
		is "$name" status running
		is "$name" pid "${pids[$name]}"
		[[ -d $(cgroup_of "$(box_command "${pids[$name]}")" cpu) ]] || fail "the cgroup of $name is gone"
	done
	is e exec/x/status running
}

@test "a state directory that is moved keeps its boxes" {
	local pid
	start_daemon
	up x "$SLEEPER"
	pid=$(pid_of x)
	stop_daemon
	mv "$STATE" "$W/moved"
	STATE=$W/moved
	start_daemon
	is x status running
	is x pid "$pid"
	is x last_error ok
	ctl x kill
	is x exit_code 137
}
