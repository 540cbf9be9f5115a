#!/usr/bin/env bats
#
# scripts/examples/dashboard: the table follows what the daemon changes.

load helpers

DASHBOARD=$BATS_TEST_DIRNAME/../scripts/examples/dashboard

setup() {
	common_setup
	export BOXLITE=$MNT
	start_daemon
}

# shows PATTERN: the last table has a row that matches. Tables end with an empty line.
shows() { awk 'NF {t = t $0 "\n"; next} {last = t; t = ""} END {printf "%s", last}' "$W/dash.out" | grep -qE "$1"; }
shows_no() { ! shows "$1"; }
await_row() { await "the row $1" 10 shows "$1"; }

tables() { grep -c '^BOX' "$W/dash.out"; }

@test "the dashboard shows each change of each box, also of new ones" {
	local n
	up x "$SLEEPER"
	bg dash "$DASHBOARD"
	await_row "^x +running +[a-z]+ +$(pid_of x) +-1 +[^ ]+ health from=starting to=healthy"
	box y
	await_row '^y +empty +none +-1 +-1 +[^ ]+ created'
	configure y <<<'command: [sh, -c, "exit 3"]'
	await_row '^y +configured '
	ctl y start
	await_row '^y +stopped +[a-z]+ +-1 +3 +[^ ]+ health from=healthy to=unhealthy'
	ctl x kill
	await_row '^x +stopped +[a-z]+ +-1 +137 '
	ok rmdir "$MNT/boxes/x"
	await "the row of x to go" 10 shows_no '^x '
	shows '^y ' || fail "the row of y is gone, too"
	ok rmdir "$MNT/boxes/y"
	await "the row of y to go" 10 shows_no '^y '
	# Nothing is polled.
	await "the tables to be all" 5 steady_tables
	kill -TERM "${PID[dash]}"
	join dash 5
	assert "$rc" -eq 0 "exit code ($err)"
	await "inotifywait to go" 5 no_watchers
}

# steady_tables: half a second without a change is one without a table.
steady_tables() {
	n=$(tables)
	sleep 0.5
	(($(tables) == n))
}

no_watchers() { ! grep -lzF "$MNT/boxes/" /proc/[0-9]*/cmdline 2>/dev/null | grep -q .; }

@test "the dashboard goes on with the next daemon, however the last one ended" {
	local end
	up x "$SLEEPER"
	bg dash "$DASHBOARD"
	await_row '^x +running '
	for end in stop_daemon kill_daemon; do
		"$end"
		await "it to say so" 10 grep -q 'the daemon is gone' "$W/dash.out"
		start_daemon
		box "after-$end"
		await_row "^after-$end +empty "
		: >"$W/dash.out"
	done
	kill -TERM "${PID[dash]}"
	join dash 5
	assert "$rc" -eq 0 "exit code ($err)"
	await "inotifywait to go" 5 no_watchers
}

@test "the dashboard without a mount says so" {
	BOXLITE=$W try "$DASHBOARD"
	assert "$rc" -eq 1 "exit code"
	assert "$err" has "there is no $W/boxes" "what it says"
}
