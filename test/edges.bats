#!/usr/bin/env bats
#
# What happens between two steps: a box that goes while nobody looks, commands
# that overtake each other, records that are lost, files that change hands.

load helpers

setup() {
	common_setup
	start_daemon
}

@test "a box that removes itself before anybody has looked does not harm the daemon" {
	local pid
	box x $'command: [sleep, "0.3"]\nremove_on_exit: true'
	ctl x start
	pid=$(pid_of x)
	stop_daemon
	start_daemon
	# Nobody touches boxes/ before the box has ended.
	await "the box to end" 10 vanished "$pid"
	await "its directory to go" 10 test ! -e "$STATE/boxes/x"
	daemon_alive || fail "the daemon is dead"
	ok ls "$MNT/boxes"
	assert "$out" = '' "what is left in boxes/"
}

@test "a box that removes itself while no daemon runs is removed by the next" {
	local pid
	box x $'command: [sleep, infinity]\nremove_on_exit: true'
	ctl x start
	pid=$(pid_of x)
	stop_daemon
	kill -KILL "$pid"
	await "the box to end" 10 vanished "$pid"
	start_daemon
	await "its directory to go" 10 test ! -e "$STATE/boxes/x"
	daemon_alive || fail "the daemon is dead"
	ok ls "$MNT/boxes"
	assert "$out" = '' "what is left in boxes/"
}

@test "a restart wins over remove_on_exit" {
	up x $'command: [sleep, infinity]\nremove_on_exit: true'
	local i
	for i in 1 2 3 4 5; do
		ctl x restart
		is x status running
	done
	ctl x kill
	await "the box to remove itself" 10 test ! -e "$STATE/boxes/x"
}

@test "the last output of a box that removes itself reaches a reader of wait/log" {
	script x 'remove_on_exit: true' <<<'read -r _ <&1 || :; sleep 0.3; seq 20000'
	ctl x start
	bg log cat "$MNT/boxes/x/wait/log"
	join log
	assert "$rc" -eq 0 "status of the reader"
	assert "$(tail -n 1 <<<"$out")" = 20000 "last line"
	assert "$(wc -l <<<"$out")" -eq 20000 "lines"
	await "the trash to be emptied" 10 rmdir_would_do "$STATE/trash"
}
rmdir_would_do() { [[ -z $(ls -A "$1") ]]; }

@test "a reader that keeps the log of a removed box holds up nobody" {
	up x "$SLEEPER"
	ok /usr/bin/timeout 15 /usr/bin/python3 -c 'import os, sys
box, boxes = sys.argv[1], os.path.dirname(sys.argv[1])
log = os.open(box + "/wait/log", os.O_RDONLY)
configs = [os.open(box + "/config.yaml", os.O_WRONLY | os.O_TRUNC) for _ in range(50)]
for config in configs:
    os.write(config, b"command: [id]\n")
ctl = os.open(box + "/ctl", os.O_WRONLY)
os.write(ctl, b"kill\n")
os.close(ctl)
os.rmdir(box)
said = set()
for config in configs:
    try:
        os.close(config)
        said.add("committed")
    except OSError as e:
        said.add(os.strerror(e.errno))
print(*said)
os.close(log)' "$MNT/boxes/x"
	assert "$out" = 'No such device' "closes of a config whose box is gone"
}

@test "a box of the same name inherits nothing" {
	local i
	for i in 1 2 3 4 5 6 7 8 9 10; do
		box x $'command: [true]\nautostart: true\nlabels: {round: "'"$i"'"}'
		ok chown 1234 "$MNT/boxes/x" "$MNT/boxes/x/ctl"
		rd x/wait/stopped
		ok rmdir "$MNT/boxes/x"
		ok mkdir "$MNT/boxes/x"
		is x status empty
		rd x/config.yaml
		assert "$out" = '' "config of a new box"
		ok stat -c %u "$MNT/boxes/x" "$MNT/boxes/x/ctl"
		assert "$out" = $'0\n0' "owner of a new box"
		ok rmdir "$MNT/boxes/x"
	done
	ok mkdir "$MNT/boxes/x"
	restart_daemon
	is x status empty
	ok stat -c %u "$MNT/boxes/x"
	assert "$out" = 0 "owner after a restart"
}

@test "what pause and resume say is what the processes do" {
	local pid cmd i
	up x "$SLEEPER"
	pid=$(pid_of x)
	cmd=$(box_command "$pid")
	for i in 1 2 3 4 5 6 7 8; do
		ok sh -c 'for i in 1 2 3 4 5 6; do
			for c in pause resume; do /bin/echo $c >"$1" & done
		done; wait' sh "$MNT/boxes/x/ctl"
		case $(t cat "$MNT/boxes/x/status") in
		paused) frozen "$cmd" || fail "said to be paused, and not frozen" ;;
		running) ! frozen "$cmd" || fail "said to run, and frozen" ;;
		*) fail "status $(t cat "$MNT/boxes/x/status")" ;;
		esac
	done
}

@test "a paused box is continued by resume alone" {
	local cmd
	up x "$SLEEPER"
	cmd=$(box_command "$(pid_of x)")
	ctl x pause
	frozen "$cmd" || fail "it is not frozen"
	ctl_refused EBUSY x "signal CONT"
	frozen "$cmd" || fail "it goes on"
	ctl x resume
	! frozen "$cmd" || fail "it is still frozen"
	is x status running
}

in_state() { [[ $(awk '/^State/ {print $2}' "/proc/$1/status") == "$2" ]]; }

@test "a kill written behind a stop through one open does not wait for its grace" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	local before
	before=$(now)
	# Not in shell: its `echo >&3` closes a copy of 3, which waits for the stop.
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
for c in b"stop 20s", b"start", b"kill":
    os.write(fd, c + b"\n")
os.close(fd)' "$MNT/boxes/x/ctl"
	becomes x status stopped
	(($(now) - before < 5000)) || fail "it took $(($(now) - before)) ms"
	# The start that stood between was overtaken by the kill.
	rd x/wait/stopped
	is x status stopped
}

@test "an error belongs to its own commands, not to the next through the same open" {
	box x 'command: [/does/not/exist]'
	py 'import os, sys
box = sys.argv[1]
fd = os.open(box + "/ctl", os.O_WRONLY)
def close_of_a_copy():
    try:
        os.close(os.dup(fd))
        return 0
    except OSError as e:
        return e.errno
os.write(fd, b"start\n")
print(close_of_a_copy())
with open(box + "/config.yaml", "w") as f:
    f.write("command: [sleep, infinity]\n")
os.write(fd, b"start\n")
print(close_of_a_copy())' "$MNT/boxes/x"
	assert "$out" = $'5\n0' "what two closes said"
	is x status running
}

@test "commands behind a long one are bounded" {
	script x <<<"$STUBBORN"
	ctl x start
	logs x ready
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, b"stop 20s\n")
try:
    for i in range(100):
        os.write(fd, b"start\n" * 100)
    print("unbounded")
except OSError as e:
    print(os.strerror(e.errno), i > 5)
os._exit(0)' "$MNT/boxes/x/ctl" &
	local writer=$!
	becomes x last_error 'box "x": ctl: 1000 commands wait already'
	ctl x kill
	wait "$writer"
}

@test "a box whose record is lost while it runs is adopted from its shim" {
	local pid cmd
	up x "$SLEEPER"
	pid=$(pid_of x)
	kill_daemon
	echo 'not json' >"$STATE/boxes/x/shim.json"
	start_daemon
	is x status running
	is x pid "$pid"
	rd x/last_error
	assert "$out" =~ 'shim.json.*is kept as' "last_error"
	refused EBUSY rmdir "$MNT/boxes/x"
	restart_daemon
	is x pid "$pid"
	ctl x kill
	# Not this daemon's child: another process reaps it, in its own time.
	await "the shim to be reaped" 10 vanished "$pid"
	is x exit_code 137
}

@test "a record that cannot be read makes nothing of a living box" {
	local pid
	up x "$SLEEPER"
	pid=$(pid_of x)
	kill_daemon
	mv "$STATE/boxes/x/shim.json" "$W/shim.json"
	mkdir "$STATE/boxes/x/shim.json"
	start_daemon
	is x status unknown
	refused EBUSY rmdir "$MNT/boxes/x"
	ctl_refused EBUSY x start
	ctl_refused EBUSY x kill
	vanished "$pid" && fail "it was killed on no evidence"
	# Once it can be read, the next command finds the box.
	rmdir "$STATE/boxes/x/shim.json"
	mv "$W/shim.json" "$STATE/boxes/x/shim.json"
	ctl_refused EBUSY x kill
	becomes x status running
	is x pid "$pid"
	ctl x kill
	is x status stopped
}

@test "SIGTERM with a box of unknown state ends the daemon in order" {
	up x "$SLEEPER"
	kill_daemon
	mv "$STATE/boxes/x/shim.json" "$W/shim.json"
	mkdir "$STATE/boxes/x/shim.json"
	start_daemon
	is x status unknown
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
	rmdir "$STATE/boxes/x/shim.json"
	mv "$W/shim.json" "$STATE/boxes/x/shim.json"
	start_daemon
	is x status running
}

@test "emptying a configuration is refused and said so" {
	box x "$SLEEPER"
	try sh -c ': >"$1"' sh "$MNT/boxes/x/config.yaml"
	becomes x last_error 'box "x": config: invalid argument: nothing was written; the configuration stays as it was'
	rd x/config.yaml
	assert "$out" = "$SLEEPER" "config"
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [sleep, infinity]\nhostname: long\n")
os.fsync(fd)
os.ftruncate(fd, 27)
os.close(fd)
print(open(sys.argv[1]).read(), end="")' "$MNT/boxes/x/config.yaml"
	assert "$out" = "$SLEEPER" "a text that was cut after it had been committed"
}

@test "a configuration in two parts is committed whole or not at all" {
	local sh
	printf 'command: [sleep, infinity]\nautostart: true\n' >"$W/a"
	echo 'user: nobody' >"$W/b"
	for sh in bash dash; do
		ok mkdir "$MNT/boxes/$sh"
		mkfifo "$W/$sh.go"
		bg "$sh" "$sh" -c '{ cat "$1"; cat "$3"; cat "$2"; } >"$4"' sh \
			"$W/a" "$W/b" "$W/$sh.go" "$MNT/boxes/$sh/config.yaml"
		# The second cat has opened its end: the first has written and exited.
		: >"$W/$sh.go"
		join "$sh"
		assert "$rc" -eq 0 "$sh"
		rd "$sh/config.yaml"
		assert "$out" = "$(cat "$W/a" "$W/b")" "config"
		rd "$sh/events"
		assert "$(grep -c " $sh configured\$" <<<"$out" || :)" -eq 1 "commits"
		becomes "$sh" status running
		assert "$(stat -c %U "/proc/$(box_command "$(pid_of "$sh")")")" = nobody "user of the box"
	done
}

@test "who reads and writes one open configuration reads what it wrote" {
	box x "$SLEEPER"
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.lseek(fd, 0, os.SEEK_END)
os.write(fd, b"workdir: /tmp\n")
print(os.pread(fd, 4096, 0).decode(), end="")
os.close(fd)' "$MNT/boxes/x/config.yaml"
	assert "$out" = "$SLEEPER"$'\nworkdir: /tmp' "what the writer reads"
	rd x/config.yaml
	assert "$out" = "$SLEEPER"$'\nworkdir: /tmp' "what was committed"
}

@test "a command event names the process, also when a thread gave it" {
	box x "$SLEEPER"
	py 'import os, sys, threading
def give():
    fd = os.open(sys.argv[1], os.O_WRONLY); os.write(fd, b"kill\n"); os.close(fd)
t = threading.Thread(target=give); t.start(); t.join()
print(os.getpid())' "$MNT/boxes/x/ctl"
	local pid=$out
	rd x/events
	assert "$out" =~ "by=0:$pid kill" "events"
}

@test "the waiting files can be delegated, too" {
	box x "$SLEEPER"
	ok chown -R 1234 "$MNT/boxes/x/wait"
	ok chmod 0400 "$MNT/boxes/x/wait/exit"
	restart_daemon
	ok stat -c '%u %a' "$MNT/boxes/x/wait" "$MNT/boxes/x/wait/exit" "$MNT/boxes/x/wait/log"
	assert "$out" = $'1234 755\n1234 400\n1234 444' "owners and modes"
	ok setpriv --reuid 1234 --clear-groups cat "$MNT/boxes/x/wait/exit"
	refused EACCES setpriv --reuid 4321 --clear-groups cat "$MNT/boxes/x/wait/exit"
}

@test "a follower of a box's events gets the removal, and then the end" {
	box x "$SLEEPER"
	local i
	for i in 1 2 3 4 5; do
		ok mkdir "$MNT/boxes/y$i"
		bg "ev$i" /usr/bin/python3 -uc 'import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print("open")
while text := os.read(fd, 4096):
    print(text.decode(), end="")' "$MNT/boxes/y$i/wait/event"
		await "the follower to follow" 5 grep -q open "$W/ev$i.out"
		ok rmdir "$MNT/boxes/y$i"
		join "ev$i"
		assert "$rc" -eq 0 "status of the follower"
		assert "$(tail -n 1 <<<"$out")" =~ " y$i removed\$" "last event"
	done
}

@test "a mount point that is not empty is refused" {
	mkdir "$W/full"
	echo precious >"$W/full/file"
	try timeout 10 "$BOXLITED" --mount "$W/full" --state "$W/other" --shim "$SHIM"
	assert "$rc" -eq 4 "exit status"
	assert "$err" =~ 'is not empty' "what it says"
	assert "$(<"$W/full/file")" = precious "what was there"
}

@test "a uid without a name does not get root's group" {
	run_script x 'user: "54321"' <<<'id -u; id -g; id -G'
	assert "$out" = $'54321\n54321\n54321' "ids"
}

@test "a second daemon on the same mount point is refused, whatever its state directory" {
	try timeout 10 "$BOXLITED" --mount "$MNT" --state "$W/other" --shim "$SHIM"
	assert "$rc" -eq 4 "exit status"
	assert "$err" =~ 'a living boxlited has mounted' "what it says"
	ok cat "$MNT/version"
}

# unkillable BOX: makes a box that runs a process which cannot die before the
# second daemon goes on: its read of a file there was taken and is not answered.
unkillable() {
	mkdir "$W/mnt2"
	"$BOXLITED" --mount "$W/mnt2" --state "$W/state2" --shim "$SHIM" >>"$LOG" 2>&1 </dev/null 3>&- 4>&- &
	SECOND=$!
	await "the second daemon" 10 t cat "$W/mnt2/version"
	ok mkdir "$W/mnt2/boxes/y"
	box "$1" "command: [cat, $W/mnt2/boxes/y/wait/running]"
	ctl "$1" start
	local cmd
	cmd=$(box_command "$(pid_of "$1")")
	await "its process to wait in the other mount" 10 grep -q request_wait_answer "/proc/$cmd/wchan"
	kill -STOP "$SECOND"
	await "the second daemon to stand" 5 in_state "$SECOND" T
}

end_second() {
	kill -CONT "$SECOND"
	t rmdir "$W/mnt2/boxes/y"
	kill -TERM "$SECOND"
	await "the second daemon to end" 10 gone "$SECOND"
	wait "$SECOND"
}

@test "a kill that is not reaped in its bound is ETIMEDOUT, and gives nothing up" {
	local pid before took
	unkillable x
	up other "$SLEEPER"
	pid=$(pid_of x)
	before=$(now)
	T=8 try "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	took=$(($(now) - before))
	assert "$rc" -ne 0 "status of the kill"
	assert "$err" =~ 'Connection timed out' "what it says"
	((took >= 1800 && took < 3000)) || fail "the bound of 2 s took $took ms"
	is x status stopping
	is x pid "$pid"
	rd x/last_error
	assert "$out" =~ "process $pid was killed" "last_error"
	refused EBUSY rmdir "$MNT/boxes/x"
	ctl_refused EBUSY x start
	# Nobody else is held up.
	ctl other kill
	is other status stopped
	# It becomes stopped by itself as soon as it can die.
	end_second
	becomes x status stopped
	is x exit_code 137
	vanished "$pid" || fail "$pid is still there"
	ok rmdir "$MNT/boxes/x"
}

@test "a box that cannot die is found stopping again by the next daemon" {
	unkillable x
	local pid
	pid=$(pid_of x)
	T=8 try "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	assert "$rc" -ne 0 "status of the kill"
	kill_daemon
	start_daemon
	refused EBUSY rmdir "$MNT/boxes/x"
	is x pid "$pid"
	end_second
	becomes x status stopped
	await "the shim to be reaped" 10 vanished "$pid"
}
