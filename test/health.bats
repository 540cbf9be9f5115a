#!/usr/bin/env bats
#
# Health: what is said of a box that runs, and what it costs the others.

load helpers

setup() {
	common_setup
	start_daemon
}

# probe_of BOX KEY: what info.json says of the last probe.
probe_of() {
	json "$1" "probe.$2" >/dev/null
	echo "$out"
}

probed() { [[ $(probe_of "$1" time) != None ]]; }

# pid BOX: sets PID_OF.
pid() {
	rd "$1/pid"
	PID_OF=$out
}

# await_health BOX WORD
await_health() { await "$1 to be $2" 10 has "$1" health "$2"; }

@test "a service is starting, healthy, unhealthy, and healthy again" {
	box web "command: [sleep, infinity]
user: nobody
health_check: {command: [sh, -c, 'id -un; exec test -e $W/ok'], interval: 50ms, retries: 2}"
	is web health none
	bg waiter cat "$MNT/boxes/web/wait/healthy"
	await_blocked waiter
	ctl web start
	await "a probe" 5 probed web
	is web health starting
	is web status running
	: >"$W/ok"
	join waiter
	assert "$out" = healthy "wait/healthy"
	is web health healthy
	rm "$W/ok"
	await_health web unhealthy
	is web status running
	assert "$(probe_of web exit_code)" = 1 "exit code of the last probe"
	assert "$(probe_of web output)" = nobody "its output"
	: >"$W/ok"
	await_health web healthy
	rd web/events
	assert "$out" has "web health from=healthy to=unhealthy probe=command exit_code=1" "events"
	ctl web stop
	is web health none
}

@test "checks that are disabled stay so, whatever else is set" {
	up x "$SLEEPER
health_check: {disabled: true, command: [touch, $W/probed], interval: 10ms, on_unhealthy: restart}"
	is x health none
	json x config.health_check.interval
	assert "$out" = 10ms "interval"
	up other "$SLEEPER
health_check: {command: ['true'], interval: 10ms}"
	await_health other healthy
	[[ ! -e $W/probed ]] || fail "it was probed"
	refused ECANCELED cat "$MNT/boxes/x/wait/healthy"
	pid x
	kill -KILL "$PID_OF"
	await "its end" 5 has x status stopped
	is x health none
	is x exit_code 137
}

@test "a shim that was killed leaves unhealthy, one that was asked to end does not" {
	up x "$SLEEPER"
	is x health healthy
	pid x
	kill -KILL "$PID_OF"
	await "its end" 5 has x status stopped
	is x health unhealthy
	restart_daemon
	is x health unhealthy
	ctl x start
	pid x
	kill -TERM "$PID_OF"
	await "its end" 5 has x status stopped
	is x health none
}

@test "a probe that hangs is killed with its group, and delays nobody" {
	local i at
	for i in 1 2 3 4 5; do
		up "hung$i" "$SLEEPER
health_check: {interval: 10ms, timeout: 300ms, start_period: 0s, retries: 1,
  command: [sh, -c, 'trap \"\" TERM INT HUP; sleep 7654 & sleep 7654']}"
	done
	up fine "$SLEEPER
health_check: {interval: 20ms, command: ['true']}"
	for i in 1 2 3 4 5; do
		await_health "hung$i" unhealthy
		assert "$(probe_of "hung$i" timed_out)" = True "hung$i timed out"
	done
	is fine health healthy
	for i in 1 2 3 4 5 6; do
		at=$(probe_of fine time)
		other_probe() { [[ $(probe_of fine time) != "$at" ]]; }
		await "another probe" 5 other_probe
	done
	# Of all the probes only the last can be there.
	pid hung1
	assert "$(box_pids "$PID_OF" | wc -l)" -le 6 "processes of hung1"
	for i in 1 2 3 4 5; do ctl "hung$i" kill; done
}

@test "an unhealthy box is adopted as such, and goes on being probed" {
	: >"$W/ok"
	up x "$SLEEPER
health_check: {command: [test, -e, $W/ok], interval: 30ms, retries: 1}"
	await_health x healthy
	rm "$W/ok"
	await_health x unhealthy
	kill_daemon
	start_daemon
	is x health unhealthy
	: >"$W/ok"
	await_health x healthy
}

@test "a shim that does not answer makes its box unhealthy, and only that" {
	up x "$SLEEPER
health_check: {interval: 50ms, timeout: 50ms, retries: 2}"
	up y "$SLEEPER
health_check: {interval: 50ms, timeout: 2s}"
	pid x
	kill -STOP "$PID_OF"
	await_health x unhealthy
	is x status running
	is y health healthy
	# Not even its adoption waits for that.
	kill_daemon
	start_daemon
	is x status running
	await_health x unhealthy
	kill -CONT "$PID_OF"
	await_health x healthy
	is y health healthy
}

@test "no more probes are under way than were allowed" {
	local i
	stop_daemon
	start_daemon --max-probes 2
	mkdir "$W/now"
	for i in 1 2 3 4 5 6; do
		up "x$i" "$SLEEPER
health_check: {interval: 10ms, timeout: 10s, start_period: 0s, retries: 1,
  command: [sh, -c, 'touch $W/now/\$\$; n=\$(ls $W/now | wc -l); echo \$n >>$W/counts; sleep 0.05; rm $W/now/\$\$']}"
	done
	for i in 1 2 3 4 5 6; do await_health "x$i" healthy; done
	many() { (($(wc -l <"$W/counts") >= 30)); }
	await "many probes" 20 many
	assert "$(sort -n "$W/counts" | tail -n 1)" -eq 2 "probes at once"
	refused_start --max-probes 0
}

# refused_start ARG…: a daemon that does not start.
refused_start() {
	try "$BOXLITED" --mount "$W/no" --state "$W/no-state" "$@"
	assert "$rc" -eq 2 "exit status"
}

@test "health goes through tcp and http of the box's own network, without a process" {
	box srv "command: [python3, -u, -m, http.server, --bind, 127.0.0.1, '8099']
network: none
workdir: /usr/share
health_check: {http: 'http://localhost:8099/', interval: 50ms, retries: 1}"
	ctl srv start
	rd srv/wait/healthy
	assert "$out" = healthy "wait/healthy"
	pid srv
	assert "$(box_pids "$PID_OF" | wc -l)" -eq 2 "processes of the box"
	ok sh -c 'echo "signal STOP" >"$1"' sh "$MNT/boxes/srv/ctl"
	ctl srv kill
	configure srv <<E
command: [sleep, infinity]
network: none
health_check: {tcp: 8099, interval: 50ms, retries: 1, start_period: 0s}
E
	ctl srv start
	await_health srv unhealthy
	assert "$(probe_of srv reason)" has refused "reason"
}

@test "nothing of health is left behind" {
	local i
	watch_fds
	for i in 1 2 3 4 5; do
		up "x$i" "$SLEEPER
health_check: {command: ['true'], interval: 10ms}"
		await_health "x$i" healthy
	done
	for i in 1 2 3 4 5; do ctl "x$i" kill; done
}
