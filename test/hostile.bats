#!/usr/bin/env bats
#
# Boxes whose processes do their best not to end. Each is killed whole, and nothing
# is left of it; and where the kernel does not let a process die, nothing is given
# up before it has.

load helpers
load hostile

export BATS_TEST_TIMEOUT=120

setup_file() { build hostile; }

setup() {
	setup_with hostile
	start_daemon
}

teardown() {
	local failed=0
	drop_freezer
	common_teardown || failed=1
	drop_freezer now || failed=1
	return $failed
}

# --- great numbers -----------------------------------------------------------

@test "a fork bomb of 2,000 processes is killed whole" {
	local shim cmd ns took
	hostile x bomb 2000
	hold x
	logs x full
	await "2,000 processes" 20 has_processes 2001
	timed ctl x kill
	nothing_left
	is x status stopped
	is x exit_code 137
	say "kill of 2,000 processes: $took ms"
}

@test "a fork bomb is killed while it goes off" {
	local shim cmd ns i
	for i in 1 2 3 4 5; do
		hostile "x$i" bomb 2000
		hold "x$i"
		more_than() { (($(ns_pids "$ns" | wc -l) > i * 50)); }
		await "it to go off" 10 more_than
		ctl "x$i" kill
		nothing_left
		is "x$i" exit_code 137
	done
}

@test "a fork bomb goes with its shim, and with a stop" {
	local shim cmd ns took
	hostile x bomb 500
	hold x
	await "500 processes" 10 has_processes 501
	kill -KILL "$shim"
	rd x/wait/stopped
	assert "$out" = 137 "exit code"
	nothing_left
	hostile y bomb 500
	hold y
	await "500 processes" 10 has_processes 501
	# They die of SIGTERM, but only the first is sent one.
	timed ctl y stop
	assert "$took" -lt 9000 "milliseconds that the stop took, with a grace of 10 s"
	is y exit_code 143
	nothing_left
}

@test "a fork bomb is held by pids, and killed whole" {
	local shim cmd ns dir most=0 n
	hostile x bomb 2000 -- 'resources: {pids: 50}'
	hold x
	# It goes on trying: hundreds of forks have been refused by then.
	logs x held
	for _ in {1..50}; do
		n=$(ns_pids "$ns" | wc -l)
		((n <= most)) || most=$n
	done
	# The shim stays outside.
	assert "$most" -le 51 "processes of the box, with its shim"
	assert "$most" -ge 50 "processes of the box, with its shim"
	! log_has x full 1 || fail "it made 2,000"
	ctl x "signal WINCH"
	ctl x kill
	nothing_left
	is x status stopped
	is x exit_code 137
}

@test "a fork bomb that gets next to no processor time is killed whole, and as fast" {
	local shim cmd ns took how
	for how in 'ctl x kill' 'ctl x "stop 100ms"'; do
		hostile x bomb 1000
		hold x
		logs x full
		await "1,000 processes" 20 has_processes 1001
		# Each needs some to die: a second's worth of that would take two minutes.
		configure x <<<"command: [$HOSTILE, bomb, \"1000\"]"$'\nresources: {cpus: 0.01}'
		((rc == 0)) || fail "config of x refused: $err"
		timed eval "$how"
		nothing_left
		say "$how of 1,000 processes with cpus: 0.01: $took ms"
		is x status stopped
		ok rmdir "$MNT/boxes/x"
	done
}

@test "a paused tree that ignores every signal is killed whole, and so is one whose shim is killed" {
	local shim cmd ns how
	for how in 'ctl x kill' 'ctl x "stop 100ms"' 'kill -KILL $shim' 'kill -TERM $shim'; do
		hostile x deaf 2 3 -- 'stop: {timeout: 100ms}'
		hold x
		logs x ready
		ctl x pause
		is x status paused
		eval "$how"
		rd x/wait/stopped
		assert "$out" = 137 "exit code after $how"
		nothing_left
		is x status stopped
		ok rmdir "$MNT/boxes/x"
	done
}

@test "processes that each fork the next and end are no moving target" {
	local shim cmd ns i
	for i in 1 2 3; do
		hostile "x$i" churn 10
		hold "x$i"
		logs "x$i" ready
		ctl "x$i" kill
		nothing_left
		is "x$i" status stopped
		is "x$i" exit_code 137
	done
}

@test "100,000 orphans are reaped while the command forks and waits for children of its own" {
	local shim cmd ns took before
	hostile x orphans 100000 200
	hold x
	before=$(now)
	# Meanwhile the shim answers.
	local answers=0
	until log_has x done: 1; do
		(($(now) - before < 60000)) || fail "it takes more than 60 s"
		has x status running || break # its log says why
		T=5 ctl x "signal WINCH"
		answers=$((answers + 1))
	done
	took=$(($(now) - before))
	rd x/log x/last_error
	assert "$out" = $'done: 100000 orphans, 2000 children of its own, 0 lost\nok' "what the command counted"
	# Nothing is left of them but the shim and the command.
	await "the last orphans to be reaped" 5 has_processes 2
	assert "$(zombies_of "$shim")" = '' "zombies of the shim"
	assert "$answers" -ge 5 "answers of the shim meanwhile"
	ctl x 'signal TERM'
	rd x/wait/stopped
	assert "$out" = 42 "exit code: of no child was the status lost"
	nothing_left
	say "100,000 orphans: $took ms, $answers answers of the shim meanwhile"
}

# --- what does not want to end -----------------------------------------------

@test "a daemon of two forks is the shim's, and goes with the box" {
	local shim cmd ns how
	for how in 'ctl x kill' 'ctl x stop' 'kill -KILL $shim' 'kill -TERM $shim' 'kill -KILL $cmd'; do
		hostile x daemon
		hold x
		logs x ready
		local daemon
		daemon=$(ns_pids "$ns" | grep -vxe "$shim" -e "$cmd")
		assert "$(status_field "$daemon" PPid)" = "$shim" "parent of the daemon"
		assert "$(ps -o sid= -p "$daemon" | xargs)" != "$(ps -o sid= -p "$cmd" | xargs)" "session of the daemon"
		eval "$how"
		rd x/wait/stopped
		nothing_left
		is x status stopped
		ok rmdir "$MNT/boxes/x"
	done
}

@test "a tree that ignores every signal is stopped after the grace, and killed at once" {
	local shim cmd ns took how
	for how in 'stop 300ms' kill; do
		hostile x deaf 3 4
		hold x
		logs x ready
		has_processes 86 || fail "the tree has not 85 processes"
		assert "$(status_field "$cmd" SigBlk)" =~ ^f "blocked signals of the command"
		ctl x "signal TERM"
		ctl x "signal INT"
		timed ctl x "$how"
		nothing_left
		is x exit_code 137
		if [[ $how == stop* ]]; then
			assert "$took" -ge 300 "milliseconds of the stop"
		fi
		assert "$took" -lt 3000 "milliseconds of the $how"
		ok rmdir "$MNT/boxes/x"
	done
}

@test "a kill -TERM of the shim gives a command that ignores it the grace, and no more" {
	local shim cmd ns before
	hostile x deaf 2 2 -- 'stop: {timeout: 700ms}'
	hold x
	logs x ready
	before=$(now)
	kill -TERM "$shim"
	rd x/wait/stopped
	assert "$out" = 137 "exit code"
	assert $(($(now) - before)) -ge 700 "milliseconds until it was gone"
	assert $(($(now) - before)) -lt 5000 "milliseconds until it was gone"
	nothing_left
	is x status stopped
}

@test "processes stopped by SIGSTOP are killed, and the shim too" {
	local shim cmd ns how pids
	for how in 'ctl x kill' 'ctl x "stop 200ms"' 'kill -KILL $shim'; do
		script x <<<'sleep 1000 & (setsid sleep 1000 &) ; echo ready; wait'
		ctl x start
		hold x
		logs x ready
		mapfile -t pids < <(ns_pids "$ns")
		assert "${#pids[@]}" -eq 4 "processes of the box"
		kill -STOP "${pids[@]}"
		await "all to stand" 5 all_in_state T "${pids[@]}"
		eval "$how"
		rd x/wait/stopped
		assert "$out" = 137 "exit code after $how"
		nothing_left
		ok rmdir "$MNT/boxes/x"
	done
}

# --- traced ------------------------------------------------------------------

@test "a tree that is stopped by a tracer within the box is killed whole" {
	local shim cmd ns how took
	for how in kill 'stop 300ms'; do
		hostile x traced
		hold x
		logs x ready
		in_state "$cmd" t || fail "the command is not stopped by its tracer: $(grep State "/proc/$cmd/status")"
		has_processes 5 || fail "the tree has not 5 processes"
		assert "$(ns_pids "$ns" | while read -r p; do status_field "$p" State; done | grep -c t)" -eq 3 "traced processes"
		timed ctl x "$how"
		assert "$took" -lt 3000 "milliseconds of $how"
		nothing_left
		is x status stopped
		is x exit_code 137
		ok rmdir "$MNT/boxes/x"
	done
}

# trace reap|deaf|idle|exit PID…: a tracer outside the box traces the processes.
trace() {
	bg tracer "$HOSTILE" tracer "$@"
	await "the tracer to trace them" 5 grep -q ready "$W/tracer.out"
}

# traced_shim HOW: runs the box x, with its shim under a tracer outside.
traced_shim() {
	up x "$SLEEPER"
	hold x
	trace "$1" "$shim"
	[[ $1 == exit || $1 == idle ]] || in_state "$shim" t || fail "the shim is not stopped: $(grep State "/proc/$shim/status")"
}

# told_once OUTCOME: the end of x was told, once and so.
told_once() {
	ok grep -F " reaped pid=$shim " "$MNT/events"
	assert "$out" =~ "^[0-9]+ [^ ]+ x reaped pid=$shim outcome=$1\$" "what is told of the shim's end"
}

@test "a box whose command is traced and stopped from outside is killed whole" {
	local shim cmd ns
	script x <<<'sleep 1000 & echo ready; wait'
	ctl x start
	hold x
	logs x ready
	trace reap "$cmd"
	ctl x kill
	nothing_left
	is x status stopped
	join tracer
	ok rmdir "$MNT/boxes/x"
}

@test "the dead that a tracer outside does not let go hold up the kill, and nothing is given up" {
	local shim cmd ns
	up x "$SLEEPER"
	hold x
	trace deaf "$cmd"
	timed_out x kill 2000 "; it waits for process $cmd \\(.*\\), which is in state Z, traced by process ${PID[tracer]};"
	kill -KILL "${PID[tracer]}"
	heals x
}

@test "a box whose shim a tracer outside holds back as a zombie has ended, and the zombie goes with the tracer" {
	local shim cmd ns took how mode
	for mode in deaf idle; do
		for how in 'ctl x kill' 'kill -KILL $shim'; do
			traced_shim "$mode"
			timed eval "$how; rd x/wait/stopped"
			assert "$out" = 137 "exit code after $how"
			say "$how under a tracer that is $mode: told after $took ms"
			is x status stopped
			is x pid -1
			told_once not-our-child
			# All that is left is the zombie, and it is not the box's any more.
			in_state "$shim" Z || fail "the shim is $(grep State "/proc/$shim/status"): this has shown nothing"
			assert "$(ns_pids "$ns")" = "$shim" "processes of the box"
			ok rmdir "$MNT/boxes/x"
			up x "$SLEEPER"
			kill -KILL "${PID[tracer]}"
			await "the zombie to be reaped" 5 vanished "$shim"
			# The next run goes on.
			is x status running
			told_once not-our-child
			ctl x kill
			ok rmdir "$MNT/boxes/x"
		done
	done
}

@test "a box whose shim is stopped by a tracer outside, which waits for it, is killed and reaped" {
	local shim cmd ns how
	for how in 'ctl x kill' 'ctl x "stop 100ms"' 'kill -KILL $shim'; do
		traced_shim reap
		eval "$how"
		rd x/wait/stopped
		# The tracer stops one thread. When the shim works on another, a stop has its way.
		[[ $how == *stop* && $out == 143 ]] || assert "$out" = 137 "exit code after $how"
		nothing_left
		is x status stopped
		told_once reaped
		join tracer
		ok rmdir "$MNT/boxes/x"
	done
}

@test "a shim that a tracer outside had stopped goes on when that dies, and so does its box" {
	local shim cmd ns
	traced_shim deaf
	kill -KILL "${PID[tracer]}"
	await "the shim to go on" 5 in_state "$shim" S
	ctl x "signal WINCH"
	is x status running
	is x pid "$shim"
	ctl x stop
	is x exit_code 143
	nothing_left
}

@test "a shim that a tracer outside holds while it ends is not given up before it has ended" {
	local shim cmd ns
	traced_shim exit
	kill -KILL "$shim"
	await "the tracer to hold it" 5 in_state "$shim" t
	is x status running
	is x pid "$shim"
	timed_out x kill 2000 ", traced by process ${PID[tracer]};"
	kill -KILL "${PID[tracer]}"
	heals x
}

@test "an adopted shim that a tracer outside has stopped is killed, and the zombie goes with the tracer" {
	local shim cmd ns
	traced_shim deaf
	kill_daemon
	start_daemon
	is x pid "$shim"
	ctl x kill
	is x status stopped
	is x exit_code 137
	told_once not-our-child
	in_state "$shim" Z || fail "the shim is not a zombie: this has shown nothing"
	ok rmdir "$MNT/boxes/x"
	kill -KILL "${PID[tracer]}"
	# Another process reaps it, in its own time.
	await "the shim to be reaped" 10 vanished "$shim"
	nothing_left
}

# --- frozen by somebody else -------------------------------------------------

# A box of five processes; sets pids to those but the shim, and HELD_BY_FROZEN to
# what last_error says once these are frozen.
frozen_box() {
	script x <<<'sleep 1000 & (setsid sleep 1000 &) ; sh -c "sleep 1000 & wait" & echo ready; wait'
	ctl x start
	hold x
	logs x ready
	await "its processes" 5 has_processes 6
	mapfile -t pids < <(ns_pids "$ns" | grep -vx "$shim")
	make_freezer
	HELD_BY_FROZEN="; it waits for process ($(IFS='|' && echo "${pids[*]}")) \\((sh|sleep)\\), which is in state D, frozen in cgroup $FREEZER;"
}

@test "a kill of a box whose processes somebody has frozen is ETIMEDOUT, and heals at the thaw" {
	local shim cmd ns pids
	frozen_box
	freeze "${pids[@]}"
	timed_out x kill 2000 "$HELD_BY_FROZEN"
	# The same again, and it is the same.
	timed_out x kill 2000 "$HELD_BY_FROZEN"
	has_processes 6 || fail "some have died: $(ns_pids "$ns" | xargs)"
	thaw
	heals x
}

@test "a kill of a box whose shim somebody has frozen is ETIMEDOUT, and heals at the thaw" {
	local shim cmd ns pids
	frozen_box
	freeze "$shim"
	timed_out x kill 2000 ", frozen in cgroup $FREEZER;"
	has_processes 6 || fail "some have died: $(ns_pids "$ns" | xargs)"
	thaw
	heals x
}

@test "a kill of a box that somebody has frozen with its shim is ETIMEDOUT, and heals at the thaw" {
	local shim cmd ns pids
	frozen_box
	freeze "$shim" "${pids[@]}"
	timed_out x kill 2000 ", frozen in cgroup $FREEZER;"
	thaw
	heals x
}

@test "a stop of a frozen box becomes a kill after the grace, and that is ETIMEDOUT" {
	local shim cmd ns pids
	frozen_box
	freeze "${pids[@]}"
	# The grace, half a second in which the shim may be late, and the bound.
	timed_out x 'stop 200ms' 2700 "$HELD_BY_FROZEN"
	thaw
	heals x
}

@test "a shim that is frozen and killed from outside heals at the thaw, also for the next daemon" {
	local shim cmd ns pids
	frozen_box
	freeze "$shim" "${pids[@]}"
	kill -KILL "$shim"
	is x status running
	is x pid "$shim"
	kill_daemon
	start_daemon
	is x pid "$shim"
	timed_out x kill 2000 ", frozen in cgroup $FREEZER;"
	thaw
	becomes x status stopped
	is x exit_code 137
	# Another process reaps it, in its own time.
	await "the shim to be reaped" 10 vanished "$shim"
	nothing_left
	ok rmdir "$MNT/boxes/x"
}
