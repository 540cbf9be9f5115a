#!/usr/bin/env bats
#
# What the next daemon makes of the boxes that it finds: each row of the table of
# recovery, looked at from outside, and the ends that come while nobody watches.

load helpers

export BATS_TEST_TIMEOUT=180

setup() {
	common_setup
	start_daemon
}

# A box that says what it is told by signals, and runs until then.
TOLD='command: [sh, -c, "trap \"exit 6\" USR1; echo ready; while :; do sleep 0.05; done"]'

# up_ready BOX CONFIG: runs a box until it has said ready.
up_ready() {
	up "$@"
	logs "$1" ready
}

# edit_identity BOX CODE: changes the identity in shim.json, which CODE has as id.
# An inode has more digits than some JSON tools keep.
edit_identity() {
	py 'import json, sys
path = sys.argv[1]
record = json.load(open(path))
id = record["identity"]
exec(sys.argv[2])
json.dump(record, open(path, "w"))' "$STATE/boxes/$1/shim.json" "$2"
}

# crash_by SIGNAL: the daemon ends by a signal that it does not take.
crash_by() {
	DAEMON_KILLED=yes
	kill -s "$1" "$DAEMON"
	await "boxlited to die of SIG$1" 10 gone "$DAEMON"
	reap_daemon
}

# usable BOX…: each can be run, killed and removed.
usable() {
	local name
	for name; do
		configure "$name" <<<"$SLEEPER"
		ctl "$name" start
		is "$name" status running
		is "$name" last_error ok
		ctl "$name" kill
		is "$name" exit_code 137
		ok rmdir "$MNT/boxes/$name"
		[[ ! -e $STATE/boxes/$name ]] || fail "$name is removed, and its directory is there"
	done
}

@test "a shim that is a zombie of somebody else's is dead, whatever its parent does" {
	stop_daemon
	# The orphans of this daemon come to a process that waits for none of them.
	bg holder /usr/bin/python3 -c 'import ctypes, signal, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
log = open(sys.argv[1], "a")
p = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
print(p.pid, flush=True)
signal.pause()' "$LOG" "$BOXLITED" --mount "$MNT" --state "$STATE" --shim "$SHIM"
	await "the pid of boxlited" 10 test -s "$W/holder.out"
	DAEMON=$(<"$W/holder.out") DAEMON_RC=''
	await "boxlited" 10 daemon_up_or_dead
	local pid
	up x "$SLEEPER"
	up other "$SLEEPER"
	pid=$(pid_of x)
	kill -KILL "$DAEMON"
	await "boxlited to die" 10 gone "$DAEMON"
	DAEMON_KILLED=yes
	kill -KILL "$pid"
	is_zombie() { grep -q '^State:.Z' "/proc/$1/status"; }
	await "the shim to be a zombie" 10 is_zombie "$pid"
	start_daemon
	is x status stopped
	is x pid -1
	is x exit_code -1
	is other status running
	is_zombie "$pid" || fail "the zombie was not there any more: this has shown nothing"
	usable x
	ctl other kill
	is other status stopped
	is other exit_code 137
}

@test "after a reboot every box is stopped, and autostart starts again" {
	local name
	local -A pid=()
	for name in plain paused auto; do
		up "$name" "$SLEEPER"$'\n'"autostart: $([[ $name == auto ]] && echo true || echo false)"
		pid[$name]=$(pid_of "$name")
	done
	ctl paused pause
	box off "$SLEEPER"
	up taken "$SLEEPER"
	pid[taken]=$(pid_of taken)
	local frozen
	frozen=$(cgroup_of "$(box_command "${pid[paused]}")" freezer)
	kill_daemon
	# A reboot ends also what is frozen, which here nobody is left to thaw.
	if [[ -e $frozen/freezer.state ]]; then
		echo THAWED >"$frozen/freezer.state"
	fi
	for name in "${!pid[@]}"; do
		kill -KILL "${pid[$name]}"
		await "$name to go" 10 vanished "${pid[$name]}"
		edit_identity "$name" "id['boot_id'] = '00000000-0000-0000-0000-000000000000'"
	done
	# Since the boot another process has got all by which one is known within a boot.
	bg stranger sleep 1000
	edit_identity taken "import os
pid = ${PID[stranger]}
id['pid'], id['start_ticks'] = pid, int(open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[19])
if 'pidfd_inode' in id:
    id['pidfd_inode'] = os.fstat(os.pidfd_open(pid)).st_ino"
	start_daemon
	for name in plain paused taken; do
		is "$name" status stopped
		is "$name" pid -1
		is "$name" exit_code -1
		rd "$name/wait/stopped"
		assert "$out" = -1 "wait/stopped of $name"
	done
	is off status configured
	becomes auto status running
	assert "$(live_shims)" = "$(pid_of auto)" "shims"
	ctl auto kill
	ctl taken kill
	gone "${PID[stranger]}" && fail "a stranger was killed for a box of before the boot"
	usable plain paused auto off taken
}

@test "a directory that is gone takes its box with it, one that is half made or half removed is finished" {
	box gone "$SLEEPER"
	up kept "$SLEEPER"
	stop_daemon
	rm -r "$STATE/boxes/gone"
	mkdir -p "$STATE/boxes/half" "$STATE/trash/kept.7.abc/deep"
	echo 'comm' >"$STATE/boxes/half/.config.yaml.tmp"
	echo '{"version":1,"stat' >"$STATE/boxes/half/.state.json.tmp"
	echo "$SLEEPER" >"$STATE/trash/kept.7.abc/config.yaml"
	start_daemon
	ok ls "$MNT/boxes"
	assert "$(xargs <<<"$out")" = 'half kept' "boxes"
	is half status empty
	is half last_error ok
	is kept status running
	trash_empty() { [[ -z $(ls -A "$STATE/trash") ]]; }
	await "the trash to be emptied" 10 trash_empty
	ctl kept kill
	usable half
}

@test "boxes whose shims do not answer hold up no other" {
	local i began took usual
	up other "$TOLD"
	logs other ready
	for i in {1..50}; do
		up "hung$i" "$SLEEPER"
	done
	kill_daemon
	began=$(now)
	start_daemon
	usual=$(($(now) - began))
	for i in {1..50}; do
		kill -STOP "$(pid_of "hung$i")"
	done
	local pid
	pid=$(pid_of other)
	kill_daemon
	began=$(now)
	start_daemon
	took=$(($(now) - began))
	echo "# ready after $took ms beside 50 shims that do not answer, and $usual ms when they do" >&3
	# They are waited for together, and so long that a busy machine does not lie.
	assert "$took" -le $((2 * usual + 1000)) "milliseconds until the mount"
	is other status running
	is other pid "$pid"
	began=$(now)
	ctl other pause
	ctl other resume
	ctl other stop
	assert $(($(now) - began)) -le 3000 "milliseconds for three commands of another box"
	for i in {1..50}; do
		is "hung$i" status running
		T=20 ctl "hung$i" kill
		is "hung$i" status stopped
	done
}

@test "a box that could not be looked at is looked at again when a command comes, and by every one" {
	local pid verb
	up x "$SLEEPER"
	pid=$(pid_of x)
	for verb in start kill pause rmdir; do
		kill_daemon
		: >"$LOG"
		echo '{' >"$STATE/boxes/x/shim.json"
		kill -STOP "$pid"
		start_daemon
		is x status unknown
		# The daemon's own looks are two.
		looked() { (($(grep -c 'box=x .*does not answer.* op=recover' "$LOG") >= 2)); }
		await "the daemon to give it up" 10 looked
		kill -CONT "$pid"
		is x status unknown
		if [[ $verb == rmdir ]]; then
			refused EBUSY rmdir "$MNT/boxes/x"
		else
			ctl_refused EBUSY x "$verb"
		fi
		becomes x status running
		is x pid "$pid"
	done
	ctl x kill
	is x exit_code 137
}

@test "a box with detach: false dies with its daemon, however that dies, also when it is paused" {
	local sig name pids
	box running 'detach: false
command: [sh, -c, "setsid sleep 86401 & sleep 86401"]'
	box paused 'detach: false
command: [sh, -c, "trap \"\" TERM; setsid sleep 86401 & sleep 86401"]'
	for sig in TERM KILL SEGV ABRT QUIT; do
		: >"$W/ns"
		pids=()
		for name in running paused; do
			ctl "$name" start
			pids+=("$(pid_of "$name")")
			hold_namespace "${pids[-1]}"
			echo "$ns" >>"$W/ns"
		done
		ctl paused pause
		if [[ $sig == TERM ]]; then
			stop_daemon
			assert "$DAEMON_RC" -eq 0 "exit status"
		else
			crash_by "$sig"
		fi
		await "the boxes to die after SIG$sig" 10 namespaces_empty "$W/ns"
		for name in "${pids[@]}"; do
			await "the shim $name to be reaped" 10 vanished "$name"
		done
		no_shims || fail "shims are left after SIG$sig: $(live_shims | xargs)"
		start_daemon
		for name in running paused; do
			is "$name" status stopped
			is "$name" pid -1
			is "$name" exit_code 137
			is "$name" last_error ok # it was to end
		done
	done
}

@test "remove_on_exit is carried out by the next daemon, and only after a run" {
	local pid
	up_ready x "$TOLD"$'\nremove_on_exit: true'
	box never "$SLEEPER"$'\nremove_on_exit: true'
	box fails $'command: [no-such-command]\nremove_on_exit: true'
	ctl_refused EIO fails start
	pid=$(pid_of x)
	kill_daemon
	kill -USR1 "$(box_command "$pid")"
	await "the box to end" 10 gone "$pid"
	start_daemon
	only_two() { [[ $(t ls "$MNT/boxes" | xargs) == 'fails never' ]]; }
	await "the box to be removed" 10 only_two
	[[ ! -e $STATE/boxes/x ]] || fail "the state directory still has the box"
	is fails status failed
	is never status configured
	up x "$SLEEPER"
	ctl x kill
	is x exit_code 137
}

@test "a restart of a box with remove_on_exit does not remove it" {
	up x "$SLEEPER"$'\nremove_on_exit: true'
	local pid
	pid=$(pid_of x)
	ctl x restart
	is x status running
	[[ $(pid_of x) != "$pid" ]] || fail "it is the same process"
	ctl x kill
	gone_from_list() { ! t ls "$MNT/boxes" | grep -qx x; }
	await "the box to be removed" 10 gone_from_list
}

@test "autostart at the daemon's start: what runs stays, what ended starts, what fails says so" {
	local runs
	up runs "$SLEEPER"$'\nautostart: true'
	up ended "$SLEEPER"$'\nautostart: true'
	ctl ended kill
	box fails $'command: [no-such-command]\nautostart: true'
	becomes fails status failed
	up manual "$SLEEPER"
	ctl manual kill
	runs=$(pid_of runs)
	kill_daemon
	start_daemon
	becomes ended status running
	is runs pid "$runs"
	json runs runs
	assert "$out" = 1 "runs of the box that ran on"
	runs_twice() { [[ $(json fails runs) == 2 ]]; }
	await "the box that failed to be tried again" 10 runs_twice
	becomes fails status failed
	rd fails/last_error
	assert "$out" has 'no-such-command' "last_error"
	is manual status stopped
}

@test "SIGTERM with boxes in every state ends in 2 s, and each ends or goes on as it should" {
	local began name
	local -A pid=()
	up_ready detached "$TOLD"
	up holding "$SLEEPER"$'\ndetach: false'
	up_ready stubborn $'command: [sh, -c, "trap \\"\\" TERM; echo ready; while :; do sleep 0.05; done"]\ndetach: false'
	up_ready grace 'command: [sh, -c, "trap \"\" TERM; echo ready; while :; do sleep 0.05; done"]'
	up_ready long 'command: [sh, -c, "trap \"\" TERM; echo ready; while :; do sleep 0.05; done"]'
	up held-paused "$SLEEPER"$'\ndetach: false'
	ctl held-paused pause
	# Its shim cannot learn that the daemon is gone.
	up held-hung "$SLEEPER"$'\ndetach: false'
	kill -STOP "$(pid_of held-hung)"
	up paused "$SLEEPER"
	ctl paused pause
	for name in detached holding stubborn grace long held-paused held-hung paused; do
		pid[$name]=$(pid_of "$name")
		bg "wait-$name" cat "$MNT/boxes/$name/wait/stopped"
		bg "exit-$name" cat "$MNT/boxes/$name/wait/exit"
	done
	bg stop "${ECHO[@]}" "$MNT/boxes/grace/ctl" 'stop 3s'
	bg stop-long "${ECHO[@]}" "$MNT/boxes/long/ctl" 'stop 1h'
	bg stop-held "${ECHO[@]}" "$MNT/boxes/stubborn/ctl" 'stop 1h'
	becomes grace status stopping
	becomes long status stopping
	becomes stubborn status stopping
	began=$(now)
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
	assert $(($(now) - began)) -le 2000 "milliseconds until the end"
	gone "${pid[held-hung]}" || fail "the daemon has ended before a box that must not outlive it"
	for name in detached holding stubborn grace long held-paused held-hung paused; do
		join "wait-$name" 5
		# Of a box that ends just now its end may be told.
		[[ $name == h* || $name == stubborn ]] || assert "$err" has "${ERRNO_TEXT[ESHUTDOWN]}" "wait/stopped of $name"
		join "exit-$name" 5
	done
	join stop 5
	join stop-long 5
	join stop-held 5
	for name in holding stubborn held-paused held-hung; do
		await "$name to be gone" 10 vanished "${pid[$name]}"
	done
	for name in detached long paused; do
		gone "${pid[$name]}" && fail "$name ended with the daemon"
	done
	# The shim keeps the time of a grace, with a daemon or without.
	await "the grace to end the box" 10 vanished "${pid[grace]}"
	start_daemon
	for name in holding stubborn held-paused held-hung grace; do
		is "$name" status stopped
		is "$name" exit_code 137
		is "$name" pid -1
	done
	is detached status running
	is long status stopping
	is paused status paused
	for name in detached long paused; do
		is "$name" pid "${pid[$name]}"
		ctl "$name" kill
		is "$name" status stopped
		is "$name" exit_code 137
	done
	no_shims || fail "shims are left: $(live_shims | xargs)"
}

# A box that says tick for as long as it runs, and ends as it is told.
TICKER='command: [sh, -c, "trap \"exit 6\" USR1; trap \"exit 9\" TERM; trap \"echo winch\" WINCH; while :; do echo tick; sleep 0.05; done"]'

# file_of PATH: which file it is, whatever its name is now.
file_of() { stat -L -c %d:%i "$1"; }

# version_of DIR: what the boxlited there says of itself.
version_of() {
	ok "$1/boxlited" --version
	echo "$out"
}

# next_programs: makes $W/next, which holds another version of both programs: that
# of BOXLITE_NEXT_BIN, or the same ones under a number of the same length.
next_programs() {
	local number
	mkdir "$W/next" "$W/last"
	cp -l "$W/bin/"* "$W/last/"
	if [[ -n ${BOXLITE_NEXT_BIN:-} ]]; then
		cp "$BOXLITE_NEXT_BIN"/{boxlited,boxlite-shim} "$W/next/"
	else
		cp "$W/bin/"* "$W/next/"
		read -r _ number _ <<<"$(version_of "$W/bin")"
		ok perl -pi -e 's/\Q'"$number"'\E/"9" x length $&/ge' "$W/next/boxlited"
	fi
	[[ $(version_of "$W/next") != "$(version_of "$W/last")" ]] || fail "both versions are $out"
}

# install_programs DIR: replaces both programs, as a package manager does.
install_programs() {
	local name
	for name in boxlited boxlite-shim; do
		ln "$W/$1/$name" "$W/bin/$name.new"
		mv -T "$W/bin/$name.new" "$W/bin/$name"
	done
}

# runs_of BOX DIR: its shim is the program of DIR.
runs_of() { assert "$(file_of "/proc/$(pid_of "$1")/exe")" = "$(file_of "$W/$2/boxlite-shim")" "the program of the shim of $1"; }

# obeys BOX: its log goes on growing, and it takes every command but an end.
obeys() {
	logs "$1" tick $(($(t cat "$MNT/boxes/$1/log" | grep -c tick) + 2))
	ctl "$1" pause
	is "$1" status paused
	ctl "$1" resume
	is "$1" status running
	local winches
	winches=$(t cat "$MNT/boxes/$1/log" | grep -c winch || :)
	ctl "$1" 'signal WINCH'
	logs "$1" winch $((winches + 1))
}

# taken_over END FROM TO N: replaces the programs of FROM, which run, by those of TO,
# and then the daemon by a new one, once END has ended it. It does so the N-th time.
taken_over() {
	local end=$1 from=$2 to=$3 n=$4 name
	local -A pid=()
	for name in runs paused grace ends; do
		ctl "$name" start
		logs "$name" tick "$(($(t cat "$MNT/boxes/$name/log" | grep -c tick || :) + 1))"
		pid[$name]=$(pid_of "$name")
		runs_of "$name" "$from"
	done
	ctl paused pause
	bg stop "${ECHO[@]}" "$MNT/boxes/grace/ctl" 'stop 1h'
	logs grace asked "$n"
	install_programs "$to"
	# The daemon that runs is still the old one, and its boxes are what they were.
	rd ../version
	assert "$out" = "$(version_of "$W/$from")" "version"
	obeys runs
	is paused status paused
	ctl between start
	runs_of between "$to"
	pid[between]=$(pid_of between)
	$end
	join stop 5
	kill -USR1 "$(box_command "${pid[ends]}")"
	await "a box to end meanwhile" 10 gone "${pid[ends]}"
	start_daemon
	rd ../version
	assert "$out" = "$(version_of "$W/$to")" "version"
	is ends status stopped
	is ends exit_code 6
	for name in runs paused grace; do
		is "$name" pid "${pid[$name]}"
		runs_of "$name" "$from"
	done
	is between pid "${pid[between]}"
	is runs status running
	is paused status paused
	is grace status stopping
	ctl paused resume
	for name in runs paused between; do
		obeys "$name"
	done
	ctl grace 'signal USR1'
	becomes grace status stopped
	is grace exit_code 6
	ctl runs restart
	runs_of runs "$to"
	obeys runs
	ctl runs kill
	is runs exit_code 137
	for name in paused between; do
		ctl "$name" stop
		is "$name" status stopped
		is "$name" exit_code 9
	done
}

# upgraded END: to the next version and back.
upgraded() {
	local name
	next_programs
	for name in runs paused ends between; do
		box "$name" "$TICKER"
	done
	box grace "${TICKER/exit 9/echo asked}"
	taken_over "$1" last next 1
	taken_over "$1" next last 2
}

@test "a new version takes over what the old one runs, and the old one takes it back" {
	orderly() {
		stop_daemon
		assert "$DAEMON_RC" -eq 0 "exit status"
	}
	upgraded orderly
}

@test "a new version takes over also from an old one that was killed, and the old one takes it back" {
	upgraded kill_daemon
}

@test "boxes need no file of the shim, and a start without it says so" {
	local pid
	box new "$TICKER"
	up x "$TICKER"
	up y "$TICKER"
	up again "$TICKER"
	pid=$(pid_of x)
	rm "$SHIM"
	obeys x
	ctl_refused EIO new start
	is new status failed
	rd new/last_error
	assert "$out" has "$SHIM" "last_error"
	ctl_refused EIO again restart
	is again status failed
	ctl y stop
	is y exit_code 9
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
	try "$BOXLITED" --mount "$MNT" --state "$STATE" --shim "$SHIM"
	assert "$rc" -eq 6 "exit status without a shim: $err"
	gone "$pid" && fail "the box ended with a daemon that could not begin"
	cp "$BOXLITE_BIN/boxlite-shim" "$SHIM"
	start_daemon
	is x status running
	is x pid "$pid"
	obeys x
	ctl x stop
	is x exit_code 9
	ctl new start
	is new status running
	ctl new kill
}

@test "a start that failed before its shim is not taken for the run before" {
	box x 'command: ["true"]'
	ctl x start
	becomes x status stopped
	configure x <<<$'command: ["true"]\nuser: no-such-user'
	ctl_refused EIO x start
	is x status failed
	rd x/last_error
	local said=$out
	restart_daemon
	is x status failed
	is x exit_code -1
	is x last_error "$said"
	configure x <<<'command: [sh, -c, "exit 4"]'
	ctl x start
	becomes x status stopped
	restart_daemon
	is x status stopped
	is x exit_code 4
	# Nor after a kill -9, when a run came after it.
	configure x <<<"$SLEEPER"
	ctl x start
	kill_daemon
	start_daemon
	is x status running
}
