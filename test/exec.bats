#!/usr/bin/env bats
#
# exec/: commands beside the box's own.

load helpers

setup() {
	common_setup
	start_daemon
}

E() { echo "$MNT/boxes/$1/exec/$2"; }

# exec_new BOX NAME: makes an exec; what it runs is standard input.
exec_new() {
	ok mkdir "$(E "$1" "$2")"
	exec_cmd "$1" "$2"
	((rc == 0)) || fail "cmd of $1/$2 refused: $err; $(t cat "$MNT/boxes/$1/last_error")"
}

# exec_cmd BOX NAME: writes standard input to cmd by a cat that sees the close; sets rc.
exec_cmd() { feed sh -c 'exec cat >"$1"' sh "$(E "$1" "$2")/cmd"; }

# exec_ctl BOX NAME COMMAND
exec_ctl() { ok "${ECHO[@]}" "$(E "$1" "$2")/ctl" "$3"; }

# ended BOX NAME CODE: the exec ends with that code.
ended() {
	rd "$1/exec/$2/wait/stopped"
	assert "$out" = "$3" "exit code of $1/$2"
	is "$1" "exec/$2/exit_code" "$3"
	is "$1" "exec/$2/pid" -1
}

@test "an exec has its files, modes and first words" {
	box x
	ok ls "$MNT/boxes/x/exec"
	assert "$out" = "" "execs of a new box"
	ok mkdir "$(E x e1)"
	ok find "$(E x e1)" -printf '%P %m %y\n'
	assert "$(sort <<<"$out")" = " 700 d
cmd 600 f
ctl 200 f
exit_code 444 f
pid 444 f
status 444 f
stderr 400 f
stdin 200 f
stdout 400 f
wait 755 d
wait/stopped 444 f" "tree of an exec"
	is x exec/e1/status empty
	is x exec/e1/exit_code -1
	is x exec/e1/pid -1
	is x exec/e1/cmd ""
	rd x/exec/e1/wait/stopped
	assert "$out" = -1 "wait/stopped of what never ran"
	refused EEXIST mkdir "$(E x e1)"
	refused EINVAL mkdir "$(E x .e)"
	rd x/last_error
	assert "$out" has '".e": a name is 1 to 64' "last_error"
	ok rmdir "$(E x e1)"
	refused ENOENT ls "$(E x e1)"
	refused ENOENT rmdir "$(E x e1)"
}

@test "a plain line runs, and its output, code and events are there afterwards" {
	up x "$SLEEPER"
	exec_new x e1 <<<'  sh  -c exit $0 '
	ended x e1 0
	exec_new x e2 <<<'echo hello   world'
	ended x e2 0
	is x exec/e2/status stopped
	is x exec/e2/cmd 'echo hello   world'
	rd x/exec/e2/stdout
	assert "$out" = "hello world" "stdout"
	rd x/exec/e2/stdout
	assert "$out" = "" "stdout once more: it is consumed"
	rd x/exec/e2/stderr
	assert "$out" = "" "stderr"
	rd x/events
	assert "$(grep -c ' x exec name=e2 by=0:[0-9]* begin$' <<<"$out")" -eq 1 "begin in: $out"
	assert "$(grep -c ' x exec name=e2 exit_code=0$' <<<"$out")" -eq 1 "end in: $out"
	assert "$(json x execs.total)/$(json x execs.running)" = 2/0 "execs in info.json"
	exec_new x e3 <<<'cat'
	assert "$(json x execs.running)" = 1 "running in info.json"
}

@test "a map has command, env, workdir and user, and the box's own for the rest" {
	up x $'command: [sleep, infinity]\nenv: {A: box, B: box}\nworkdir: /usr\nrlimits: {nofile: 77}'
	exec_new x e1 <<'C'
command: [sh, -c, 'echo $A $B $C $HOME; pwd; id -u; ulimit -n; grep -h NoNewPrivs /proc/self/status; cat /proc/1/comm; hostname; ps -o sid= -p $$ | tr -d " "; echo $$']
env: {B: exec, C: 'x y'}
C
	ended x e1 0
	rd x/exec/e1/stdout
	assert "$(head -n 7 <<<"$out")" = $'box exec x y /root\n/usr\n0\n77\nNoNewPrivs:\t1\nboxlite-shim\nx' "what it has"
	assert "$(sed -n 8p <<<"$out")" = "$(sed -n 9p <<<"$out")" "session of its own"
	exec_new x e2 <<<$'command: [sh, -c, "id -u; pwd; echo $HOME; grep CapEff /proc/self/status"]\nuser: nobody\nworkdir: /tmp'
	ended x e2 0
	rd x/exec/e2/stdout
	assert "$out" = $'65534\n/tmp\n/nonexistent\nCapEff:\t0000000000000000' "as nobody"
	# The same cgroup as the box.
	exec_new x e3 <<<'sleep 1000'
	rd x/exec/e3/pid
	assert "$(cat "/proc/$out/cgroup")" = "$(cat "/proc/$(box_command "$(pid_of x)")/cgroup")" "cgroups"
	assert "$(tr '\0' ' ' <"/proc/$out/cmdline")" = "sleep 1000 " "what pid is"
}

@test "what is wrong with cmd is told by the close, with line, key and suggestion" {
	up x "$SLEEPER"
	ok mkdir "$(E x e1)"
	exec_cmd x e1 <<<$'command: [ls]\ncomand: [ls]'
	assert "$err" has "${ERRNO_TEXT[EINVAL]}" "close"
	rd x/last_error
	assert "$out" = 'box "x": exec: "e1": line 2: unknown key "comand" (did you mean "command"?)' last_error
	is x exec/e1/status empty
	local text
	while IFS='|' read -r text want; do
		exec_cmd x e1 < <(printf %b "$text")
		assert "$err" has "${ERRNO_TEXT[EINVAL]}" "close of $text"
		rd x/last_error
		assert "$out" has "$want" "$text"
		is x exec/e1/status empty
	done <<'T'
env: {A: secret}\n|line 1: command is missing
command: ls\n|line 1: command must be a list of words
command: [ls]\ntimeout: 10\n|line 2: timeout "10" has no unit: write it like 10s
command: [ls]\ntimeout: 0s\n|line 2: timeout 0s is out of range
command: [ls]\ntty: maybe\n|line 2: tty must be true or false
command: [ls]\nworkdir: usr\n|line 2: workdir "usr" is not absolute
[ls]\n|the command must be one line of words
 \n|there is no command
a\nb\n|line 1: the command must be one line of words, like "ls -l", or a map
command: [ls]\nuser: no-such-user\n|user "no-such-user": unknown user "no-such-user"
T
	# A write tells what no further text can mend: bash's echo does not look at close.
	refused EINVAL bash -c 'printf "comand: [ls]\n" >"$1"' bash "$(E x e1)/cmd"
	exec_cmd x e1 < <(head -c 70000 /dev/zero | tr '\0' '#')
	assert "$err" has "${ERRNO_TEXT[EFBIG]}" "70,000 bytes"
	# And then it still can be given one, once.
	exec_cmd x e1 <<<'true'
	assert "$rc" -eq 0 "a good one"
	ended x e1 0
	exec_cmd x e1 <<<'true'
	assert "$err" has "${ERRNO_TEXT[EBUSY]}" "a second one"
	is x exec/e1/cmd true
}

@test "who reads what a refused command would say is told so" {
	up x "$SLEEPER"
	ok mkdir "$(E x e1)"
	bg reader cat "$(E x e1)/stdout"
	await_blocked reader
	exec_cmd x e1 <<<'comand: [ls]'
	assert "$rc" -ne 0 "status of a refused cmd"
	join reader
	assert "$err" has "${ERRNO_TEXT[ECANCELED]}" "a read that waited"
	refused ECANCELED cat "$(E x e1)/stderr"
	exec_cmd x e1 <<<'echo fine'
	is x exec/e1/stdout fine
}

@test "an exec needs a box that runs" {
	box x "$SLEEPER"
	ok mkdir "$(E x e1)"
	refused ESRCH "${ECHO[@]}" "$(E x e1)/cmd" true
	rd x/last_error
	assert "$out" = 'box "x": exec: "e1": no process is running: the box is configured' last_error
	# The write says so already, which is all that a builtin echo looks at.
	refused ESRCH bash -c 'echo true >"$1"' bash "$(E x e1)/cmd"
	ctl x start
	ctl x pause
	refused EBUSY "${ECHO[@]}" "$(E x e1)/cmd" true
	ctl x resume
	ok "${ECHO[@]}" "$(E x e1)/cmd" true
	ended x e1 0
}

@test "a command that cannot be executed fails, with a shell's code" {
	up x "$SLEEPER"
	local name text code says
	while IFS='|' read -r name text code says; do
		ok mkdir "$(E x "$name")"
		exec_cmd x "$name" <<<"$text"
		assert "$err" has "${ERRNO_TEXT[EIO]}" "close of $text"
		is x "exec/$name/status" failed
		ended x "$name" "$code"
		rd x/last_error
		assert "$out" has "$says" "$text"
		rd "x/exec/$name/stdout"
		assert "$out" = "" "stdout of $text"
	done <<'T'
e1|no-such-program|127|"e1": start failed: command "no-such-program" not found in PATH
e2|/etc/passwd|126|/etc/passwd is not executable
e3|{command: [ls], workdir: /no/such}|125|cannot chdir to /no/such
T
}

@test "stdin ends with its last close, or by close_stdin" {
	up x "$SLEEPER"
	exec_new x e1 <<<cat
	ok sh -c 'exec echo hello >"$1"' sh "$(E x e1)/stdin"
	ended x e1 0
	rd x/exec/e1/stdout
	assert "$out" = hello stdout
	refused EPIPE sh -c 'exec /bin/echo >"$1"' sh "$(E x e1)/stdin"
	exec_new x e2 <<<cat
	# Two commands and a child that exits share one open: none of their closes is the end.
	bg writer bash -c 'exec 3>"$1"; /bin/echo one >&3; (:); /bin/echo two >&3; sleep infinity' bash "$(E x e2)/stdin"
	rd_head x/exec/e2/stdout 8
	assert "$out" = $'one\ntwo' "stdout so far"
	is x exec/e2/status running
	exec_ctl x e2 close_stdin
	ended x e2 0
	exec_new x e3 <<<'cat'
	: | ok sh -c 'exec tee "$1"' sh "$(E x e3)/stdin"
	ended x e3 0
	exec_new x e4 <<<'cat'
	exec_ctl x e4 close_stdin
	ended x e4 0
	ok mkdir "$(E x e5)"
	refused ESRCH "${ECHO[@]}" "$(E x e5)/stdin" early
	# The command itself has closed it.
	exec_new x e6 <<<'{command: [sh, -c, "exec <&-; echo closed; exec sleep 1000"]}'
	rd_head x/exec/e6/stdout 7
	refused EPIPE "${ECHO[@]}" "$(E x e6)/stdin" late
}

ERRNO_TEXT[EPIPE]="Broken pipe"

# rd_head PATH N: reads N bytes.
rd_head() { ok head -c "$2" "$MNT/boxes/$1"; }

@test "kill, signal NAME and close_stdin are its commands" {
	up x "$SLEEPER"
	exec_new x e1 <<<'{command: [sh, -c, "trap \"echo got; exit 5\" USR1; echo ready; while :; do sleep 0.01; done"]}'
	rd_head x/exec/e1/stdout 6
	refused EBUSY rmdir "$(E x e1)"
	rd x/last_error
	assert "$out" = 'box "x": exec: "e1": busy: it is running (kill it first)' last_error
	exec_ctl x e1 'signal USR1'
	ended x e1 5
	rd x/exec/e1/stdout
	assert "$out" = got stdout
	refused ESRCH "${ECHO[@]}" "$(E x e1)/ctl" 'signal USR1'
	exec_ctl x e1 kill
	refused EINVAL "${ECHO[@]}" "$(E x e1)/ctl" start
	rd x/last_error
	assert "$out" has 'unknown command "start" (kill, signal NAME, close_stdin)' last_error
	ok rmdir "$(E x e1)"
	exec_new x e1 <<<'{command: [sh, -c, "sleep 1001 & exec sleep 1002"]}'
	local shim
	shim=$(pid_of x)
	await "its child" 5 has_pids "$shim" 4
	# The close waits for the end: rmdir needs no sleep.
	ok sh -c '/bin/echo kill >"$1/ctl" && rmdir "$1"' sh "$(E x e1)"
	await "all to go" 5 has_pids "$shim" 2
}

has_pids() { (($(box_pids "$1" | wc -l) == $2)); }

@test "the timeout kills the whole group, also one whose leader is gone" {
	up x "$SLEEPER"
	exec_new x e1 <<<$'command: [sh, -c, "sleep 1001 & exec sleep 1002"]\ntimeout: 200ms'
	ended x e1 124
	rd x/events
	assert "$out" has "exec name=e1 exit_code=124 timeout" events
	await "the group to go" 5 has_pids "$(pid_of x)" 2
	exec_new x e2 <<<$'command: [sh, -c, "sleep 1001 & exit 3"]\ntimeout: 2s'
	ended x e2 3
	await "the group to go" 5 has_pids "$(pid_of x)" 2
}

@test "what an exec leaves behind has its pipe, and holds up no reader" {
	up x "$SLEEPER"
	exec_new x e1 <<<'{command: [sh, -c, "(sleep 1000; echo late) & echo now"]}'
	rd x/exec/e1/stdout
	assert "$out" = now stdout
	ended x e1 0
	exec_ctl x e1 kill
	await "what it left to go" 5 has_pids "$(pid_of x)" 2
}

@test "a read blocks until there is something; O_NONBLOCK and signals are heeded" {
	up x "$SLEEPER"
	exec_new x e1 <<<cat
	bg reader cat "$(E x e1)/stdout"
	bg other cat "$(E x e1)/stderr"
	await_blocked reader other
	refused EAGAIN dd if="$(E x e1)/stdout" iflag=nonblock bs=10 count=1
	kill -INT "${PID[reader]}"
	join reader 2
	kill -KILL "${PID[other]}"
	await "the killed reader to go" 2 gone "${PID[other]}"
	# Neither has taken anything with it.
	ok sh -c 'exec echo hello >"$1"' sh "$(E x e1)/stdin"
	rd x/exec/e1/stdout
	assert "$out" = hello stdout
	# A writer of a full pipe, beside one that keeps it from its end.
	exec_new x e2 <<<'sleep 1000'
	bg keeper sh -c 'exec sleep infinity >"$1"' sh "$(E x e2)/stdin"
	bg writer sh -c 'exec cat /dev/zero >"$1"' sh "$(E x e2)/stdin"
	await_blocked writer
	is x exec/e2/status running
	exec_ctl x e2 'signal CONT'
	ok ls "$(E x e2)"
	refused EAGAIN dd if=/dev/zero of="$(E x e2)/stdin" oflag=nonblock conv=notrunc bs=1 count=1
	kill -KILL "${PID[writer]}"
	await "the killed writer to go" 2 gone "${PID[writer]}"
	# Two of them do not wait for each other, nor does who changes the file.
	local name blocked_write='import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
while True: os.write(fd, bytes(1 << 17))'
	for name in writer2 writer3; do
		bg "$name" /usr/bin/python3 -c "$blocked_write" "$(E x e2)/stdin"
		await_blocked "$name"
	done
	kill -KILL "${PID[writer3]}"
	await "the killed writer to go" 2 gone "${PID[writer3]}"
	exec_ctl x e2 kill
	join writer2 2
	assert "$rc" -ne 0 "the writer of what was killed"
	ended x e2 137
}

@test "10 MB go through stdin and stdout unchanged" {
	up x "$SLEEPER"
	head -c 10000000 /dev/urandom >"$W/data"
	exec_new x e1 <<<cat
	bg writer sh -c 'exec cat "$1" >"$2"' sh "$W/data" "$(E x e1)/stdin"
	ok sh -c 'cat "$1" | sha256sum' sh "$(E x e1)/stdout"
	assert "$out" = "$(sha256sum <"$W/data")" checksum
	join writer
	ended x e1 0
	exec_new x e2 <<<sha256sum
	ok sh -c 'exec cat "$1" >"$2"' sh "$W/data" "$(E x e2)/stdin"
	ended x e2 0
	rd x/exec/e2/stdout
	assert "$out" = "$(sha256sum <"$W/data")" "checksum inside"
}

@test "stop, kill, an end by itself and a killed shim end the execs of a box" {
	local how shim
	for how in stop kill itself shim; do
		up "$how" "$SLEEPER"
		exec_new "$how" e1 <<<'{command: [sh, -c, "echo rest; echo up >&2; trap \"\" TERM; while :; do sleep 0.05; done"]}'
		exec_new "$how" e2 <<<'{command: [sh, -c, "exit 4"]}'
		ended "$how" e2 4
		rd_head "$how/exec/e1/stderr" 3
		bg "$how" cat "$(E "$how" e1)/wait/stopped"
		shim=$(pid_of "$how")
		case $how in
		stop | kill) ctl "$how" "$how" ;;
		itself) kill -TERM "$(box_command "$shim")" ;;
		shim) kill -KILL "$shim" ;;
		esac
		join "$how"
		assert "$out" = 137 "wait/stopped of $how"
		becomes "$how" status stopped
		ended "$how" e1 137
		is "$how" exec/e1/status stopped
		is "$how" exec/e2/exit_code 4
		rd "$how/exec/e1/stdout"
		assert "$out" = rest "what was not read of $how"
		ok rmdir "$(E "$how" e1)"
	done
	# The codes are on record.
	restart_daemon
	is kill exec/e2/exit_code 4
	is kill exec/e2/status stopped
	rd kill/exec/e2/wait/stopped
	assert "$out" = 4 "exit code after a restart"
}

@test "a removed box or exec gives ENODEV to who has it open" {
	up x "$SLEEPER"
	exec_new x e1 <<<true
	ended x e1 0
	py 'import os, sys, errno
d = sys.argv[1]
fds = [os.open(d + "/" + f, os.O_RDONLY) for f in ("status", "stdout", "cmd", "wait/stopped")]
w = [os.open(d + "/" + f, os.O_WRONLY) for f in ("ctl", "stdin", "cmd")]
os.rmdir(d)
def no(what, call):
    try:
        call()
    except OSError as e:
        assert e.errno == errno.ENODEV, (what, e)
    else:
        raise AssertionError(what)
for fd in fds: no(fd, lambda: os.read(fd, 10))
for fd in w: no(fd, lambda: os.write(fd, b"kill\n"))
for fd in w: no(fd, lambda: os.fchmod(fd, 0o600))
' "$(E x e1)"
	exec_new x e2 <<<'sleep 1000'
	bg reader cat "$(E x e2)/stdout"
	await_blocked reader
	ctl x kill
	join reader
	assert "$rc" -eq 0 "the reader of what was killed"
	ok rmdir "$MNT/boxes/x"
}

@test "at most 256 execs, and what is not offered is refused" {
	box x
	ok sh -c 'cd /; i=0; while [ $i -lt 256 ]; do mkdir "$1/e$i" || exit 1; i=$((i + 1)); done' sh "$MNT/boxes/x/exec"
	ERRNO_TEXT[ENOSPC]="No space left on device"
	refused ENOSPC mkdir "$(E x more)"
	rd x/last_error
	assert "$out" has "a box has at most 256 execs" last_error
	ok rmdir "$(E x e7)"
	ok mkdir "$(E x more)"
	local file
	for file in cmd stdin stdout status ctl wait/stopped; do
		refused EPERM unlink "$(E x more)/$file"
		refused EPERM mv "$(E x more)/$file" "$(E x more)/y"
	done
	refused EPERM mkdir "$(E x more)/dir"
	refused EPERM sh -c '>"$1"' sh "$(E x more)/new"
	refused EPERM mv "$(E x more)" "$(E x other)"
	refused EPERM rmdir "$(E x more)/wait" "$MNT/boxes/x/exec"
	refused EACCES sh -c 'exec cat >"$1"' sh "$(E x more)/status"
	refused EACCES cat "$(E x more)/stdin"
	ok rmdir "$MNT/boxes/x"
}

@test "nothing of an exec is left in the daemon or in the shim" {
	watch_fds
	up x "$SLEEPER"
	local name shim n
	shim=$(pid_of x)
	await "the daemon's line" 5 has_line "$shim"
	n=$(fds_of "$shim")
	for name in a b c; do
		exec_new x "$name" <<<cat
		ok sh -c 'exec echo hello >"$1"' sh "$(E x "$name")/stdin"
		ended x "$name" 0
		assert "$(fds_of "$shim")" -gt "$n" "descriptors of the shim for what was not read"
		ok rmdir "$(E x "$name")"
		await "it to be forgotten" 5 has_fds "$shim" "$n"
	done
	# These go with the box: the count is taken at the end of the test.
	exec_new x d <<<'echo hello'
	ended x d 0
	ok mkdir "$(E x never)"
	exec_new x e <<<cat
}

has_line() { (($(find "/proc/$1/fd" -lname 'socket:*' | wc -l) == 2)); }
fds_of() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
has_fds() { (($(fds_of "$1") == $2)); }

@test "who may write exec/ may run commands, with no more than the box has" {
	up x $'command: [sleep, infinity]\nuser: nobody'
	ERRNO_TEXT[EACCES]="Permission denied"
	refused EACCES "${NOBODY[@]}" mkdir "$(E x e1)"
	ok chown 65534:65534 "$MNT/boxes/x/exec"
	ok "${NOBODY[@]}" mkdir "$(E x e1)"
	ok stat -c %u:%g "$(E x e1)" "$(E x e1)/cmd" "$(E x e1)/wait/stopped"
	assert "$(sort -u <<<"$out")" = 65534:65534 "owner of what he made"
	refused EPERM "${NOBODY[@]}" "${ECHO[@]}" "$(E x e1)/cmd" '{command: [id, -u], user: root}'
	rd x/last_error
	assert "$out" has "only root chooses the user" last_error
	ok "${NOBODY[@]}" "${ECHO[@]}" "$(E x e1)/cmd" 'id -u'
	ended x e1 0
	rd x/exec/e1/stdout
	assert "$out" = 65534 "who it ran as"
	ok "${NOBODY[@]}" rmdir "$(E x e1)"
	# On engine host root of the box is root of the host.
	up r "$SLEEPER"
	ok chown -R 65534 "$MNT/boxes/r/exec"
	ok "${NOBODY[@]}" mkdir "$(E r e1)"
	refused EPERM "${NOBODY[@]}" "${ECHO[@]}" "$(E r e1)/cmd" 'id -u'
	rd r/last_error
	assert "$out" has "the box runs as root" last_error
	# Root's own are not his, unless he is given them; that lasts.
	ok mkdir "$(E x e2)"
	refused EACCES "${NOBODY[@]}" "${ECHO[@]}" "$(E x e2)/cmd" true
	ok chown -R 65534:65534 "$(E x e2)"
	ok chmod 0640 "$(E x e2)/stdout"
	restart_daemon
	ok stat -c '%u %a' "$(E x e2)/cmd" "$(E x e2)/stdout"
	assert "$out" = $'65534 600\n65534 640' "owner and mode after a restart"
	ok "${NOBODY[@]}" "${ECHO[@]}" "$(E x e2)/cmd" true
	ended x e2 0
}

@test "execs outlive the daemon: streams and codes go on" {
	up x "$SLEEPER"
	exec_new x run <<<'cat'
	exec_new x over <<<'{command: [sh, -c, "echo rest; while [ ! -e $0/go ]; do sleep 0.02; done; echo more; exit 6", '"$W"']}'
	ok mkdir "$(E x never)"
	bg writer bash -c 'exec 3>"$1"; /bin/echo before >&3; sleep infinity' bash "$(E x run)/stdin"
	local pid
	pid=$(t cat "$(E x run)/pid")
	await "it to be written" 5 pipe_has x run stdout
	kill_daemon
	touch "$W/go"
	await "the other to end" 5 test -s "$STATE/boxes/x/exec/over/exit.json"
	start_daemon
	is x exec/never/status empty
	is x exec/run/status running
	is x exec/run/pid "$pid"
	ended x over 6
	rd x/exec/over/stdout
	assert "$out" = $'rest\nmore' "what was written meanwhile"
	ok sh -c 'exec echo after >"$1"' sh "$(E x run)/stdin"
	rd x/exec/run/stdout
	assert "$out" = $'before\nafter' "stdout of what ran on"
	ended x run 0
	restart_daemon
	exec_new x e3 <<<'{command: [sh, -c, "read x; echo $x; exit 9"]}'
	restart_daemon
	ok sh -c 'exec echo hello >"$1"' sh "$(E x e3)/stdin"
	ended x e3 9
	# The box ends while nobody looks.
	exec_new x e4 <<<'sleep 1000'
	kill_daemon
	kill -KILL "$(live_shims)"
	await "the shim to go" 5 no_shims
	start_daemon
	ended x e4 137
	is x exec/e3/exit_code 9
}

# pipe_has BOX NAME STREAM: something is in the pipe.
pipe_has() {
	/usr/bin/python3 -c 'import fcntl, os, struct, sys, termios
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
n = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
sys.exit(not n)' "$STATE/boxes/$1/exec/$2/$3"
}

@test "a paused box holds up its execs and nobody else" {
	up x "$SLEEPER"
	exec_new x e1 <<<cat
	ctl x pause
	bg reader cat "$(E x e1)/stdout"
	bg writer sh -c 'exec cat /dev/zero >"$1"' sh "$(E x e1)/stdin"
	await_blocked reader writer
	is x exec/e1/status running
	kill -KILL "${PID[writer]}"
	await "the killed writer to go" 2 gone "${PID[writer]}"
	ctl x resume
	ended x e1 0
	join reader
	assert "$(($(stat -c %s "$W/reader.out") >= 65536))" -eq 1 "bytes that went through"
}

@test "tty: a terminal is stdin and stdout" {
	up x "$SLEEPER"
	exec_new x e1 <<<$'command: [sh, -c, "stty -echo; stty size; read x; echo got $x; cat; echo end"]\ntty: true'
	rd_head x/exec/e1/stdout 7
	assert "$(tr -d '\r' <<<"$out")" = "24 80" "size of the terminal"
	ok sh -c 'printf "hello\nline\n" >"$1"' sh "$(E x e1)/stdin"
	ended x e1 0
	rd x/exec/e1/stdout
	assert "$(tr -d '\r' <<<"$out")" = $'got hello\nline\nend' stdout
	rd x/exec/e1/stderr
	assert "$out" = "" stderr
}

@test "inotify tells of the begin and the end of an exec" {
	up x "$SLEEPER"
	ok mkdir "$(E x e1)"
	T=20 bg watch inotifywait -q -m -e modify --format %f "$(E x e1)/status" "$(E x e1)/exit_code"
	await "the watch" 5 watches
	ok "${ECHO[@]}" "$(E x e1)/cmd" 'sleep 0.3'
	ended x e1 0
	await "its events" 5 told_of_both
}

watches() { (($(cat "/proc/${PID[watch]}/fdinfo/"* 2>/dev/null | grep -c '^inotify') == 2)); }
told_of_both() { (($(wc -l <"$W/watch.out") >= 3)); }

@test "expire.idle counts from the end of an exec" {
	up x $'command: [sleep, infinity]\nexpire: {idle: 2s}'
	exec_new x e1 <<<'sleep 3'
	ended x e1 0
	is x status running
	becomes x status stopped
}

# bats test_tags=alone
@test "100 execs at once; a slow one slows no other; clients are killed in the middle" {
	up x "$SLEEPER"
	T=60 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/execs.py" "$MNT/boxes/x/exec" crowd
	echo "# $out" >&3
}

@test "a fork bomb in an exec is held by the box's pids" {
	up x $'command: [sleep, infinity]\nresources: {pids: 50}'
	exec_new x e1 <<<'{command: [sh, -c, "f() { f | f & }; f; exec sleep 1000"], timeout: 2s}'
	is x status running
	ctl x kill
	is x status stopped
}

PAGE=$BATS_TEST_DIRNAME/../fsapi/boxlite-exec.7.md

# page_function: the shell function of boxlite-exec(7), for this mount.
page_function() { sed -n '/^boxexec() {/,/"$code"; }$/p' "$PAGE" | sed "s,/run/boxlite,$MNT,g"; }

@test "the examples of boxlite-exec(7) work" {
	up web "$SLEEPER"
	printf '%s\n' b a b >"$W/access.log"
	local script
	script=$(sed -n '/^## EXAMPLES/,/^boxexec/p' "$PAGE" | grep -v '^```\|^boxexec\|^[A-Z#]' | sed "s,web/,$MNT/boxes/web/,g; s,access.log,$W/access.log,")
	for sh in bash dash; do
		ok "$sh" -ec "$script"
		assert "$out" =~ $'^total .*\n0\n      1 a\n      2 b$' "what they print"
		page_function >"$W/boxexec"
		assert "$(wc -l <"$W/boxexec")" -le 7 "lines of boxexec"
		try "$sh" -c '. "$1"; shift; boxexec "$@"' sh "$W/boxexec" web sh -c 'echo "it'"'"'s  $0"; echo oops >&2; exit 7' 'a  "b": #c'
		assert "$rc/$out/$err" = "7/it's  a  \"b\": #c/oops" "boxexec by $sh"
		try "$sh" -c '. "$1"; shift; boxexec "$@"' sh "$W/boxexec" web sh -c 'echo one
printf "two	%s [%s] [%s]\\n" $# "$1" "$2"
exit 5' sh '' 'b\n
'
		assert "$rc/$out" = $'5/one\ntwo\t2 [] [b\\n\n]' "boxexec of several lines and nothing by $sh"
		try "$sh" -c '. "$1"; shift; boxexec "$@"' sh "$W/boxexec" web no-such-program
		assert "$rc" -eq 127 "boxexec of what is not there, by $sh"
		try "$sh" -c '. "$1"; shift; boxexec "$@"' sh "$W/boxexec" web cat
		assert "$rc/$out" = 0/ "boxexec of what reads"
		ok "$sh" -c '. "$1"; shift; boxexec "$@"' sh "$W/boxexec" web sh -c 'head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero' | wc -c
		ok ls "$MNT/boxes/web/exec"
		assert "$out" = "" "execs that are left"
	done
	ctl web kill
	try bash -c '. "$1"; shift; boxexec "$@"' sh "$W/boxexec" web true
	assert "$rc" -eq 125 "boxexec in a box that does not run"
}
