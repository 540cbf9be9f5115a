#!/usr/bin/env bats
#
# What starts a box again, what ends it, and who wins.

load helpers

setup() {
	common_setup
	start_daemon
}


# pid BOX: sets PID_OF.
pid() {
	rd "$1/pid"
	PID_OF=$out
}

restarts_of() { sed -n 's/^restarts //p' < <(t cat "$MNT/boxes/$1/stats"); }
restarted() { (($(restarts_of "$1") >= $2)); }

ALWAYS=$'\nrestart: {policy: always}'

@test "a crash loop waits ever longer, is counted, and a kill ends it for good" {
	box x "command: [sh, -c, 'exit 3']$ALWAYS"
	ctl x start
	await "two restarts" 10 restarted x 2
	await "a backoff" 10 has x status restarting
	is x exit_code 3
	is x health unhealthy
	is x pid -1
	rd x/last_error
	assert "$out" =~ 'exited with status 3; restart [0-9]+ in a row in' "last_error"
	refused EBUSY rmdir "$MNT/boxes/x"
	bg waiter cat "$MNT/boxes/x/wait/stopped"
	await_blocked waiter
	ctl x kill
	is x status stopped
	join waiter
	assert "$out" = 3 "wait/stopped"
	kill_daemon
	start_daemon
	is x status stopped
	ok rmdir "$MNT/boxes/x"
}

@test "a kill by a daemon that dies in the middle is still a kill" {
	local shim
	up x "$SLEEPER$ALWAYS"
	pid x
	shim=$PID_OF
	kill -STOP "$shim" # it cannot be told to stop
	bg stopper "${ECHO[@]}" "$MNT/boxes/x/ctl" 'stop 1h'
	await "the stop" 5 has x status stopping
	noted() { grep -q '"asked":"' "$STATE/boxes/x/state.json"; }
	await "that to be written down" 5 noted
	kill_daemon
	kill -KILL "$shim"
	start_daemon
	await "its end" 5 has x status stopped
	is x pid -1
	assert "$(restarts_of x)" = 0 "restarts"
}

@test "a box that crashed while no daemon looked comes back with the next" {
	up x "$SLEEPER$ALWAYS"
	up y "$SLEEPER
restart: {policy: on-failure}"
	up z "$SLEEPER"
	kill_daemon
	mapfile -t pids < <(live_shims)
	kill -KILL "${pids[@]}"
	await "their end" 5 no_shims
	start_daemon
	await "x" 5 has x status running
	await "y" 5 has y status running
	is z status stopped
	assert "$(restarts_of x)" = 1 "restarts of x"
}

@test "on-failure gives up after max_retries" {
	box x "command: [sh, -c, 'exit 3']
restart: {policy: on-failure, max_retries: 2}"
	ctl x start
	rd x/wait/stopped
	assert "$out" = 3 "exit code"
	assert "$(restarts_of x)" = 2 "restarts"
	rd x/last_error
	assert "$out" has "not restarted again (max_retries: 2)" "last_error"
}

@test "an unhealthy box is restarted if that is asked for" {
	: >"$W/ok"
	up x "$SLEEPER
health_check: {command: [test, -e, $W/ok], interval: 30ms, retries: 2, on_unhealthy: restart}"
	await "its health" 5 has x health healthy
	rm "$W/ok"
	await "a restart" 10 restarted x 1
	: >"$W/ok"
	await "its health" 5 has x health healthy
	rd x/events
	assert "$out" has "restart reason=unhealthy" "events"
}

@test "a run expires, and says so" {
	box x "$SLEEPER
expire: {after: 300ms}$ALWAYS"
	ctl x start
	rd x/wait/stopped
	is x status stopped
	rd x/last_error
	assert "$out" = "expired: it ran for 300ms (expire.after)" "last_error"
	rd x/events
	assert "$out" has "stop reason=expire.after" "events"
}

@test "touch keeps an idle box alive, also across a restart of the daemon" {
	local end
	up x "$SLEEPER
expire: {idle: 2s}"
	end=$(($(now) + 3000))
	while (($(now) < end)); do ok touch "$MNT/boxes/x"; done
	is x status running
	restart_daemon
	is x status running
	end=$(($(now) + 6000))
	await "its end" 6 has x status stopped
	(($(now) < end)) || fail "it took over 6 s"
	rd x/last_error
	assert "$out" has "expire.idle" "last_error"
}

@test "many restarts leave nothing behind" {
	local i
	watch_fds
	for i in {1..20}; do
		box "x$i" "command: ['false']$ALWAYS"
		ctl "x$i" start
	done
	for i in {1..20}; do await "restarts of x$i" 20 restarted "x$i" 3; done
	for i in {1..20}; do ctl "x$i" kill; done
	for i in {1..20}; do is "x$i" status stopped; done
}
