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
