#!/usr/bin/env bats
#
# Commands, and who waits for them: what is written after what, what a kill cancels, whose
# close waits, and what becomes of a command in an odd state.

load helpers

setup() {
	common_setup
	start_daemon
}

@test "a box in its backoff whose configuration the next daemon cannot read is killed as any other" {
	box x $'command: ["false"]\nrestart: {policy: always}'
	ctl x start
	becomes x status restarting
	stop_daemon
	echo 'comand: [' >"$STATE/boxes/x/config.yaml"
	# The backoff is as long as there are any.
	py 'import json, sys
path = sys.argv[1]
record = json.load(open(path))
record["restart_at"] = "2100-01-01T00:00:00Z"
del record["restart_due_ns"]
json.dump(record, open(path, "w"))' "$STATE/boxes/x/state.json"
	start_daemon
	is x status restarting
	ctl x kill
	is x status stopped
	ok rmdir "$MNT/boxes/x"
}

@test "what is written after a kill is carried out after it" {
	box x "$SLEEPER"
	# Each command comes while the one before is under way.
	py 'import os, sys
for i in range(20):
    fd = os.open(sys.argv[1] + "/ctl", os.O_WRONLY)
    for c in b"start\n", b"kill\n", b"start\n":
        os.write(fd, c)
    os.close(fd)
    status = open(sys.argv[1] + "/status").read()
    assert status == "running\n", (i, status)
    with open(sys.argv[1] + "/ctl", "w") as f:
        f.write("kill")' "$MNT/boxes/x"
	local way
	for way in '{ echo start; echo kill; echo start; } >"$1"' 'printf "start\nkill\nstart\n" >"$1"' '/usr/bin/printf "start\nkill\nstart\n" >"$1"'; do
		ok bash -c "$way" sh "$MNT/boxes/x/ctl"
		is x status running
		is x last_error ok
		ctl x kill
	done
}

@test "a kill in the same write cuts a stop short, and what stands behind it is carried out" {
	stubborn x
	T=10 ctl x $'stop 60s\nkill\nstart'
	is x status running
	logs x ready 2
	T=10 ctl x $'restart 60s\nkill'
	is x status stopped
}

@test "a kill through another open cancels what was written before it, and says so" {
	stubborn x
	bg first "${ECHO[@]}" "$MNT/boxes/x/ctl" $'stop 60s\nstart'
	await_blocked first
	ctl x kill
	join first
	assert "$err" has "${ERRNO_TEXT[ECANCELED]}" "the close of the start that was canceled"
	is x status stopped
	rd x/last_error
	assert "$out" has 'a kill that was given later wins' "last_error"
	ctl x start
	is x status running
}

@test "the close of a process that wrote nothing does not wait" {
	stubborn x
	local before way
	before=$(now)
	# timeout has ctl open itself, and closes it when it ends.
	T=20 ok bash -c 'timeout 1 /bin/echo "stop 60s" >"$1" || echo "$?"' sh "$MNT/boxes/x/ctl"
	assert "$out" = 124 "status of timeout"
	(($(now) - before < 8000)) || fail "it took $(($(now) - before)) ms"
	is x status stopping
	ctl x kill
	# But who writes waits, however he came to the file.
	echo 'stop 100ms' >"$W/stop"
	for way in 'echo "stop 100ms" >"$1"' '(echo "stop 100ms") >"$1"' 'exec 3>"$1"; echo "stop 100ms" >&3' 'cat "$2" >"$1"' \
		'sh -c "echo stop 100ms" >"$1"' '{ cat "$2"; :; } >"$1"' 'timeout 9 cat "$2" >"$1"'; do
		for shell in bash dash; do
			ctl x start
			try "$shell" -c "$way; cat \"\$3\"" sh "$MNT/boxes/x/ctl" "$W/stop" "$MNT/boxes/x/status"
			assert "$out" = stopped "status after, in $shell: $way"
		done
	done
}

@test "an error is told to the process that gave the command" {
	box x 'command: [/does/not/exist]'
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
def close(f):
    try:
        os.close(f)
        return 0
    except OSError as e:
        return e.errno
child = os.fork()
if child == 0:
    os.write(fd, b"start\n")
    os._exit(close(fd))
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), close(os.dup(fd)))
os.write(fd, b"kill\n")
print(close(os.dup(fd)))
os.write(fd, b"start\n")
print(close(os.dup(fd)), close(fd))' "$MNT/boxes/x/ctl"
	assert "$out" = $'5 0\n0\n5 5' "closes of the writer, and of who wrote nothing"
}

@test "a file that is closed by an execve is closed as any other" {
	stubborn x
	# What a child does not inherit, its execve closes: it has written nothing.
	T=20 py 'import os, subprocess, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, b"stop 3s\n")
began = time.monotonic()
subprocess.run(["true"], close_fds=False, check=True)
print(time.monotonic() - began < 2)
os.close(fd)' "$MNT/boxes/x/ctl"
	assert "$out" = True "the child did not wait"
	is x status stopped
	# Who has written waits, and what it has made of itself then runs.
	T=20 py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, b"start\n")
os.execv("/bin/cat", ["cat", sys.argv[2]])' "$MNT/boxes/x/ctl" "$MNT/boxes/x/status"
	assert "$out" = running "status after the execve"
	T=20 py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [sleep, infinity]\nlabels: {a: b}\n")
os.execv("/bin/cat", ["cat", sys.argv[1]])' "$MNT/boxes/x/config.yaml"
	assert "$out" = $'command: [sleep, infinity]\nlabels: {a: b}' "config.yaml after the execve"
	ctl x kill
}

@test "the close of cmd by a process that wrote nothing does not wait for the begin" {
	up x "$SLEEPER"
	ok mkdir "$MNT/boxes/x/exec/e"
	local shim
	shim=$(pid_of x)
	kill -STOP "$shim"
	T=8 ok bash -c 'timeout 1 /bin/echo "sleep 60" >"$1"' sh "$MNT/boxes/x/exec/e/cmd"
	is x exec/e/status starting
	kill -CONT "$shim"
	becomes x exec/e/status running
	ctl x kill
}

@test "an fsync of cmd waits for no begin, and the close tells how that went" {
	up x "$SLEEPER"
	ok mkdir "$MNT/boxes/x/exec/e" "$MNT/boxes/x/exec/f"
	local shim
	shim=$(pid_of x)
	kill -STOP "$shim"
	bg writer /usr/bin/python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, b"sleep 60")
os.fsync(fd)
print("synced", flush=True)
os.close(fd)
print("closed", flush=True)' "$MNT/boxes/x/exec/e/cmd"
	await "the fsync" 10 grep -q synced "$W/writer.out"
	is x exec/e/status starting
	# The file is anybody's to use meanwhile.
	T=10 ok chmod 640 "$MNT/boxes/x/exec/e/cmd"
	! grep closed "$W/writer.out" || fail "the close does not wait for the begin"
	kill -CONT "$shim"
	join writer
	assert "$rc/$out" = $'0/synced\nclosed' "the writer"
	is x exec/e/status running
	# What cannot begin is told by the close.
	py 'import errno, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, b"/no/such/program")
os.fsync(fd)
try:
    os.close(fd)
except OSError as e:
    print(errno.errorcode[e.errno])' "$MNT/boxes/x/exec/f/cmd"
	assert "$out" = EIO "what the close says"
	ctl x kill
}

@test "a chown that cannot be written down changes nothing, and says so" {
	stop_daemon
	mount -t tmpfs -o size=1m tmpfs "$STATE"
	start_daemon
	up x "$SLEEPER"
	ok mkdir "$MNT/boxes/x/exec/e"
	ok chown 1234 "$MNT/boxes/x/ctl" "$MNT/boxes/x/exec/e/ctl"
	! cat /dev/zero >"$STATE/fill" 2>/dev/null || fail "the disk has no end"
	local file
	for file in x/ctl x/exec/e/ctl; do
		try chown 4321 "$MNT/boxes/$file"
		assert "$err" has "No space left on device" "chown of $file"
		ok stat -c %u "$MNT/boxes/$file"
		assert "$out" = 1234 "owner of $file"
	done
	rm "$STATE/fill"
	restart_daemon
	for file in x/ctl x/exec/e/ctl; do
		ok stat -c %u "$MNT/boxes/$file"
		assert "$out" = 1234 "owner of $file with the next daemon"
		ok chown 4321 "$MNT/boxes/$file"
		ok stat -c %u "$MNT/boxes/$file"
		assert "$out" = 4321 "owner of $file when there is room"
	done
	remove_boxes
	stop_daemon
	umount "$STATE"
}

# cpu_of PID: processor time in ticks of 10 ms.
cpu_of() { awk '{print $14 + $15}' "/proc/$1/stat"; }

@test "a configuration or a command in tiny writes costs a bounded time a byte" {
	up x "$SLEEPER"
	ok mkdir "$MNT/boxes/x/exec/e"
	local file before used
	for file in config.yaml exec/e/cmd; do
		before=$(cpu_of "$DAEMON")
		T=60 py 'import os, sys
text = b"command: [\"true\"]\nenv:\n" + b"".join(b" k%04d: v\n" % i for i in range(3000))
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
for i in range(0, len(text), 5):
    os.write(fd, text[i:i+5])
os.close(fd)' "$MNT/boxes/x/$file"
		used=$(($(cpu_of "$DAEMON") - before))
		((used < 500)) || fail "$file: $used ticks for 30 KiB"
	done
	rd x/exec/e/wait/stopped
}

@test "the builtins of bash hear of what is beyond repair, also in a long text" {
	local n
	for n in 10 60 1500; do
		box "b$n"
		refused EINVAL bash -c 'text=$(printf "command: [\"true\"]\nenv:\n"; for ((i = 0; i < $2; i++)); do printf " k%04d: v\n" "$i"; [[ $i != 8 ]] || echo " broken: [,,"; done)
			printf "%s\n" "$text" >"$1"' sh "$MNT/boxes/b$n/config.yaml" "$n"
		rd "b$n/last_error"
		assert "$out" has 'line 12' "last_error of $n lines"
	done
}

@test "fsync succeeds on every file and directory that can be opened" {
	up x "$SLEEPER"
	ok mkdir "$MNT/boxes/x/exec/e"
	T=30 py 'import errno, os, sys
def sync(path, flags):
    try:
        fd = os.open(path, flags | os.O_NONBLOCK)
    except OSError as e:
        assert e.errno == errno.EACCES, (path, e)  # ctl for reading, status for writing
        return 0
    for call in os.fsync, os.fdatasync:
        try:
            call(fd)
        except OSError as e:
            print(path, flags, e)
    os.close(fd)
    return 1
n = 0
for dir, dirs, files in os.walk(sys.argv[1]):
    n += sync(dir, os.O_RDONLY | os.O_DIRECTORY)
    for file in files:
        n += sync(dir + "/" + file, os.O_RDONLY) + sync(dir + "/" + file, os.O_WRONLY)
print(n > 35 or n)' "$MNT"
	assert "$out" = True "what cannot be synced"
	feed dd of="$MNT/boxes/x/ctl" conv=fsync status=none <<<'signal CONT'
	assert "$rc" -eq 0 "dd conv=fsync: $err"
	# It commits what is written, before the close.
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [sleep, infinity]\nhostname: synced\n")
os.fsync(fd)
print(open(sys.argv[1]).read().split()[-1])' "$MNT/boxes/x/config.yaml"
	assert "$out" = synced "config.yaml after an fsync"
}
