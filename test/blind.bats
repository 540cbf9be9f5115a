#!/usr/bin/env bats
#
# A daemon that is kept from pidfd_open by a seccomp filter, as in some containers, and
# from the other calls that take a pidfd too: it does all that it does with them.

load helpers
load hostile

setup_file() { build launch; }

setup() { setup_with launch; }

# without CALLS ERRNO: what follows is without the calls; see launch.c.
without() { LAUNCH=("$LAUNCHER" without "$@"); }

EXITS='command: [sh, -c, "trap \"exit 5\" TERM; echo ready; while :; do sleep 0.02; done"]'

# ended BOX PID CODE: the box has ended, and the daemon has nothing more to reap.
ended() {
	is "$1" status stopped
	is "$1" exit_code "$3"
	is "$1" pid -1
	gone "$2" || fail "the shim of $1 lives"
	no_zombies_of "$DAEMON" || fail "zombies of the daemon: $(zombies_of "$DAEMON" | xargs)"
}

# noticed BOX PID: the daemon learns of an end by somebody else's hand, soon.
noticed() {
	local waiter=wait-$1 before
	bg "$waiter" cat "$MNT/boxes/$1/wait/stopped"
	await_blocked "$waiter"
	before=$(now)
	kill -KILL "$2"
	join "$waiter" 1
	say "the end of $1 was told after $(($(now) - before)) ms"
}

pidfd_words() { t cat "$MNT/features" | grep pidfd; }

@test "without pidfd_open, or any call for pidfds, boxes live and end as with it, and the features say so" {
	local how pid
	start_daemon
	pidfd_words || fail "this machine has no pidfds: this shows nothing"
	stop_daemon
	for how in 'open EPERM' 'all ENOSYS'; do
		# shellcheck disable=SC2086
		without $how
		start_daemon
		! pidfd_words || fail "pidfds are a feature without $how"
		run_script exits <<<'exit 7'
		is exits exit_code 7
		up x "$EXITS"
		logs x ready
		pid=$(pid_of x)
		ctl x stop
		own_end 5
		ctl x start
		pid=$(pid_of x)
		ctl x kill
		own_end 137
		ctl x start
		pid=$(pid_of x)
		noticed x "$pid"
		own_end 137
		remove_boxes
		stop_daemon
	done
}

# own_end CODE: x has ended, and it was the daemon who has reaped its shim.
own_end() {
	ended x "$pid" "$1"
	vanished "$pid" || fail "its shim is left: $(grep State "/proc/$pid/status")"
	rd x/events
	assert "$(tail -n 3 <<<"$out")" has " reaped pid=$pid outcome=reaped" "its last events"
}

# adopted: the boxes of the table pid are as they were.
adopted() {
	local name
	for name in "${!pid[@]}"; do
		is "$name" pid "${pid[$name]}"
		is "$name" status "$([[ $name == paused ]] && echo paused || echo running)"
	done
}

# A blind process that nobody has told anything of is looked at after 1, 2, 4, …
# milliseconds. Two seconds and a bit after its adoption the next look is far.
looks_are_over() { sleep 2.1; }

five_boxes() {
	local name
	pid=()
	for name in killed stopped hit paused left; do
		up "$name" "$EXITS"
		logs "$name" ready
		pid[$name]=$(pid_of "$name")
	done
	ctl paused pause
}

# five_ends: the boxes of a daemon before end under this one, each in its way.
five_ends() {
	ctl killed kill
	ended killed "${pid[killed]}" 137
	ctl stopped stop
	ended stopped "${pid[stopped]}" 5
	# A frozen process cannot die before it is thawed.
	ctl paused kill
	ended paused "${pid[paused]}" 137
	noticed hit "${pid[hit]}"
	# Who is not its parent may not be told how it ended.
	rd hit/exit_code
	assert "$out" =~ '^(137|-1)$' "exit code of hit"
	ended hit "${pid[hit]}" "$out"
	is left status running
	is left pid "${pid[left]}"
}

@test "without pidfds the next daemon adopts boxes, ends them, and learns of their ends at once" {
	local -A pid
	without all ENOSYS
	start_daemon
	five_boxes
	kill_daemon
	without all EPERM
	start_daemon
	adopted
	looks_are_over
	five_ends
	# And once more, after a daemon that ended in order.
	restart_daemon
	is left pid "${pid[left]}"
	looks_are_over
	noticed left "${pid[left]}"
	is left status stopped
}

@test "without pidfds a daemon adopts the boxes of one that had them, and the other way round" {
	local -A pid
	start_daemon
	pidfd_words || fail "this machine has no pidfds: this shows nothing"
	five_boxes
	kill_daemon
	without all ENOSYS
	start_daemon
	! pidfd_words || fail "pidfds are a feature"
	adopted
	five_ends
	up new "$EXITS"
	logs new ready
	pid[new]=$(pid_of new)
	kill_daemon
	LAUNCH=()
	start_daemon
	pidfd_words || fail "pidfds are no feature"
	is left pid "${pid[left]}"
	is new pid "${pid[new]}"
	ctl new stop
	ended new "${pid[new]}" 5
	noticed left "${pid[left]}"
	is left status stopped
}
