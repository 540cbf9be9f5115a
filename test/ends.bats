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
	LAUNCH=(env --ignore-signal=HUP --ignore-signal=INT)
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
		assert "$out" has "is a copy: the run that is on record is process ${pids[$name]}, which belongs to the original" "last_error"
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

# on_small_disk: the state directory is a file system of its own, which fill fills and
# release makes room on. off_small_disk ends that.
on_small_disk() {
	mkdir -p "$STATE"
	mount -t tmpfs -o size=1m tmpfs "$STATE"
}

fill() {
	! cat /dev/zero >"$STATE/fill" 2>/dev/null || fail "the disk has no end"
	[[ ! -e $STATE/full ]] || fail "the disk was filled before"
	! echo 1 2>/dev/null >"$STATE/full" || fail "the disk is not full"
}

release() { rm "$STATE/fill" "$STATE/full"; }

off_small_disk() {
	remove_boxes
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
	umount "$STATE"
}

# WAITER FILE CODE: a command that ends with a code when there is a file.
waiter() { printf '[sh, -c, "echo ready; until [ -e %s ]; do sleep 0.02; done; exit %d"]' "$1" "$2"; }

# code_on_record FILE CODE
code_on_record() { grep -qs "\"code\":$2," "$1"; }

# refused_on_record ERRNO BOX VERB: a refusal is written down, also where nothing new has
# room on the disk: once there were two state.json, they change places.
refused_on_record() {
	ctl_refused "$@"
	await "the refusal to be written down" 10 grep -q "\"last_error\":.*$3" "$STATE/boxes/$2/state.json"
}

@test "an exec that ends while the disk is full has ended, also for the next daemon" {
	local e record pid
	on_small_disk
	start_daemon
	up x "$SLEEPER"
	e=$MNT/boxes/x/exec
	exec_in x e "{command: $(waiter "$W/go" 7)}"
	exec_in x other 'sleep 1000'
	record=$STATE/boxes/x/exec/e/exit.json
	bg code cat "$e/e/wait/stopped"
	bg out cat "$e/e/stdout"
	await_blocked code
	fill
	touch "$W/go"
	join code
	assert "$out" = 7 "wait/stopped"
	join out
	assert "$out" = ready "stdout"
	is x exec/e/status stopped
	is x exec/e/pid -1
	is x exec/other/status running
	[[ ! -s $record ]] || fail "it is on record: this has shown nothing"

	# What there was of it in this daemon is gone; its shim knows.
	kill_daemon
	start_daemon
	is x exec/e/status stopped
	is x exec/e/exit_code 7
	ok "${ECHO[@]}" "$e/e/ctl" kill
	is x exec/other/status running

	release
	await "the end to be on record" 10 code_on_record "$record" 7
	restart_daemon
	is x exec/e/exit_code 7
	ok rmdir "$e/e"

	# One that ends with its box is not lost with the shim.
	exec_in x last "{command: $(waiter "$W/go2" 8)}"
	refused_on_record EINVAL x sing
	refused_on_record EINVAL x dance
	pid=$(pid_of x)
	fill
	touch "$W/go2"
	becomes x exec/last/exit_code 8
	ctl x stop
	is x status stopped
	is x exec/last/exit_code 8
	is x exec/other/exit_code 137
	[[ ! -s $STATE/boxes/x/exec/last/exit.json ]] || fail "it is on record: this has shown nothing"
	# What is written of the box meanwhile does not say that there is nobody to ask.
	refused_on_record ESRCH x pause
	kill_daemon
	start_daemon
	becomes x status stopped
	is x exec/last/exit_code 8
	is x exec/other/exit_code 137
	gone "$pid" && fail "the shim has not kept the end"
	# A shim that is left although its run is on record as ended is asked as well.
	kill_daemon
	record=$(sed -n 's/.*"run":"\([^"]*\)".*/\1/p' "$STATE/boxes/x/shim.json")
	record=$(sed 's/"runs":/"last_run":"'"$record"'","last_number":1,"runs":/' "$STATE/boxes/x/state.json")
	echo "$record" >"$STATE/boxes/x/state.json"
	start_daemon
	ok grep -q 'the shim of a run that has ended was left' "$LOG"
	is x status stopped
	is x exec/last/exit_code 8
	is x exec/other/exit_code 137
	gone "$pid" && fail "the shim has not kept the end"
	release
	await "the shim to go" 40 gone "$pid"
	await "the end to be on record" 10 code_on_record "$STATE/boxes/x/exec/last/exit.json" 8
	await "the other to be on record" 10 code_on_record "$STATE/boxes/x/exec/other/exit.json" 137
	restart_daemon
	is x exec/last/exit_code 8
	is x exec/other/exit_code 137
	off_small_disk
}

@test "a box that ends while the disk is full has ended as it did" {
	local pid zpid name
	on_small_disk
	start_daemon
	box x "command: $(waiter "$W/go" 9)"$'\n''health_check: {disabled: true}'
	box y "$POLITE"
	box z 'command: [sh, -c, "until [ -e '"$W"'/go ]; do sleep 0.02; done; kill -SEGV $$"]'
	for name in x y z; do
		ctl "$name" start
	done
	logs y ready
	pid=$(pid_of x) zpid=$(pid_of z)
	bg code cat "$MNT/boxes/x/wait/stopped"
	await_blocked code
	fill
	touch "$W/go"
	join code
	assert "$out" = 9 "wait/stopped"
	is x status stopped
	is x last_error 'the command exited with status 9'
	is x health none
	is x pid -1
	becomes z exit_code 139
	is z last_error 'the command was killed by SIGSEGV'
	ctl y stop
	is y exit_code 5
	is y last_error ok
	# The end of the daemon, however it comes, takes none along: their shims keep them.
	kill_daemon
	start_daemon
	becomes x exit_code 9
	restart_daemon
	for name in x y z; do
		becomes "$name" status stopped
	done
	is x last_error 'the command exited with status 9'
	is y last_error ok
	is z last_error 'the command was killed by SIGSEGV'
	! code_on_record "$STATE/boxes/x/exit.json" 9 || fail "it is on record: this has shown nothing"
	! vanished "$pid" || fail "the shim has not kept the end"
	# One that cannot be written down is not given up for the next run.
	ctl_refused EIO x start
	rd x/last_error
	assert "$out" has 'how the run before has ended cannot be written down: ' "last_error"
	kill_daemon
	start_daemon
	becomes x exit_code 9
	becomes z status stopped
	# Who removes a box gives its end up.
	ok rmdir "$MNT/boxes/z"
	await "the shim of a removed box to go" 5 vanished "$zpid"
	release
	await "its shim to go" 10 vanished "$pid"
	await "the end to be on record" 40 grep -qs '"exit_code":9,' "$STATE/boxes/x/state.json"
	restart_daemon
	is x exit_code 9
	is y exit_code 5
	ctl y start
	is y status running
	ctl y kill
	is y exit_code 137
	off_small_disk
}

@test "a shim whose box has ended keeps the end until there is room for it, or a daemon that asks" {
	local name
	local -A pid=()
	on_small_disk
	start_daemon
	for name in asked writes told; do
		up "$name" "command: $(waiter "$W/go-$name" 9)"
		pid[$name]=$(pid_of "$name")
	done
	exec_in asked e "{command: $(waiter "$W/go-e" 8)}"
	exec_in asked other "sleep 1000"
	stop_daemon
	fill
	touch "$W/go-e"
	over() { ! pgrep --ns "${pid[asked]}" --nslist pid -f "$W/go-e" >/dev/null; }
	await "the exec to end" 5 over
	touch "$W/go-asked"
	alone() { [[ $(box_pids "$1") == "$1" ]]; }
	await "nothing but the shim to be left" 5 alone "${pid[asked]}"
	start_daemon
	is asked status stopped
	is asked exit_code 9
	is asked exec/e/exit_code 8
	is asked exec/other/exit_code 137
	gone "${pid[asked]}" && fail "the shim has not kept the end"
	is writes status running
	stop_daemon

	touch "$W/go-writes" "$W/go-told"
	await "nothing but the shim to be left" 5 alone "${pid[writes]}"
	await "nothing but the shim to be left" 5 alone "${pid[told]}"
	kill -TERM "${pid[told]}"
	await "its shim to go" 5 gone "${pid[told]}"
	gone "${pid[writes]}" && fail "the shim has not kept the end"
	release
	await "the other's to go" 10 gone "${pid[writes]}"
	code_on_record "$STATE/boxes/writes/exit.json" 9 || fail "not on record: $(ls -l "$STATE/boxes/writes")"
	start_daemon
	is writes status stopped
	is writes exit_code 9
	rd told/status
	# The kernel may still know the exit status of that shim.
	assert "$out" =~ '^(stopped|failed)$' "status of the one that was stopped"
	off_small_disk
}

@test "what a shim was too slow to tell a new daemon is told when it answers" {
	local x y
	start_daemon
	up x "$SLEEPER"
	x=$(pid_of x)
	exec_in x e "{command: $(waiter "$W/go" 7)}"
	exec_in x other 'sleep 1000'
	up y 'command: [sh, -c, "trap \"echo asked\" TERM; echo ready; while :; do sleep 0.02; done"]
stop: {timeout: 60s}'
	logs y ready
	y=$(pid_of y)
	kill_daemon
	kill -TERM "$y"
	await "the stop to be under way" 5 grep -qs asked "$STATE"/boxes/y/log.*
	kill -STOP "$x" "$y"
	touch "$W/go"
	start_daemon
	is x status running
	is y status running
	bg code cat "$MNT/boxes/x/exec/e/wait/stopped"
	await_blocked code
	# All have been asked twice by then: 250 ms and 2 s.
	await "the daemon to have no answer" 10 grep -q 'it is not known how the execs are.*box=x' "$LOG"
	slow() { (($(grep -c 'shim does not answer.*box=y' "$LOG") >= 2)); }
	await "the other to be asked twice" 10 slow
	kill -CONT "$x" "$y"
	join code 10
	assert "$out" = 7 "wait/stopped"
	is x exec/e/status stopped
	becomes x exec/other/pid "$(pgrep --ns "$x" --nslist pid -fx 'sleep 1000')"
	ok "${ECHO[@]}" "$MNT/boxes/x/exec/other/ctl" kill
	is x exec/other/exit_code 137
	becomes y status stopping
	ctl y kill
	is y status stopped
}
