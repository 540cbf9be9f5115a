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

no_watchers() { [[ -z $(pgrep -f "^inotifywait .*$MNT/boxes/") ]]; }

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
		# Not only drawn anew once, but watched.
		configure "after-$end" <<<"$SLEEPER"
		await_row "^after-$end +configured "
		: >"$W/dash.out"
	done
	kill -TERM "${PID[dash]}"
	join dash 5
	assert "$rc" -eq 0 "exit code ($err)"
	await "inotifywait to go" 5 no_watchers
}

@test "the dashboard sees a daemon end that it has only begun to watch" {
	# The reader that is to see the end comes late.
	mkdir "$W/bin/late"
	cat >"$W/bin/late/cat" <<-'END'
		#!/bin/sh
		case "$* $(readlink /proc/self/fd/0)" in
		*/wait/event*) until [ -e "$LATE" ]; do sleep 0.02; done ;;
		esac
		exec /bin/cat "$@"
	END
	chmod +x "$W/bin/late/cat"
	box x
	LATE=$W/go PATH=$W/bin/late:$PATH bg dash "$DASHBOARD"
	await_row '^x +empty '
	restart_daemon
	touch "$W/go"
	box y
	await_row '^y +empty '
	kill -TERM "${PID[dash]}"
	join dash 5
	assert "$rc" -eq 0 "exit code ($err)"
	await "inotifywait to go" 5 no_watchers
}

@test "the dashboard can be ended while there is no daemon" {
	bg dash "$DASHBOARD"
	await_row '^BOX '
	stop_daemon
	await "it to say so" 10 grep -q 'the daemon is gone' "$W/dash.out"
	kill -TERM "${PID[dash]}"
	join dash 5
	assert "$rc" -eq 0 "exit code"
	assert "$err" = '' "what it says"
}

@test "the dashboard without inotifywait says so" {
	local tool
	mkdir "$W/bin/few"
	for tool in bash env cat sleep; do
		ln -s "$(command -v "$tool")" "$W/bin/few/"
	done
	try env PATH="$W/bin/few" "$DASHBOARD"
	assert "$rc" -eq 1 "exit code"
	assert "$err" has "needs inotifywait" "what it says"
}

@test "the dashboard does not spin when inotifywait fails" {
	mkdir "$W/bin/bad"
	printf '#!/bin/sh\necho run >>"$RUNS"\nexit 1\n' >"$W/bin/bad/inotifywait"
	chmod +x "$W/bin/bad/inotifywait"
	RUNS=$W/runs PATH=$W/bin/bad:$PATH T=2 bg dash "$DASHBOARD"
	join dash 5
	assert "$(wc -l <"$W/runs")" -le 3 "runs of inotifywait in 2 s"
}

@test "the dashboard without a mount says so" {
	BOXLITE=$W try "$DASHBOARD"
	assert "$rc" -eq 1 "exit code"
	assert "$err" has "there is no $W/boxes" "what it says"
}
