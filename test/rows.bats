#!/usr/bin/env bats
#
# What must be seen from outside, in /proc, of a box that ends: by a kill of the
# daemon or of somebody else, alone and in crowds.

load helpers
load hostile

export BATS_TEST_TIMEOUT=240

setup() {
	common_setup
	start_daemon
}

@test "a force-stopped box is the daemon's child, and gone from /proc within tens of milliseconds" {
	box x 'command: [sh, -c, "sleep 1000 & setsid sleep 1000 & wait"]'
	T=60 py 'import os, sys, time
box, daemon = sys.argv[1:]
def write(text):
    fd = os.open(box + "/ctl", os.O_WRONLY)
    os.write(fd, text)
    return fd
def status(pid):
    try:
        with open("/proc/%s/status" % pid) as f:
            return dict(line.rstrip("\n").split(":\t", 1) for line in f)
    except (FileNotFoundError, ProcessLookupError):
        return None
took, zombie = [], []
for i in range(31):
    os.close(write(b"start\n"))
    pid = open(box + "/pid").read().strip()
    assert status(pid)["PPid"] == daemon, "the parent of the shim is " + status(pid)["PPid"]
    began = time.monotonic()
    fd = write(b"kill\n")  # the close, which waits, comes later
    first = None
    while s := status(pid):
        if s["State"][0] == "Z" and first is None:
            first = time.monotonic()
        assert time.monotonic() - began < 10, "still there: " + s["State"]
    gone = time.monotonic()
    took.append((gone - began) * 1000)
    zombie.append((gone - first) * 1000 if first else 0)
    os.close(fd)
    assert open(box + "/status").read() == "stopped\n"
    assert open(box + "/exit_code").read() == "137\n"
took.sort()
zombie.sort()
print("%.2f %.2f %.2f" % (took[15], took[-1], zombie[-1]))' "$MNT/boxes/x" "$DAEMON"
	local median slowest zombie
	read -r median slowest zombie <<<"$out"
	say "from the write of kill to no entry in /proc: median $median ms, slowest $slowest ms of 31; a zombie for at most $zombie ms"
	assert "${median%.*}" -lt 50 "milliseconds, in the median"
	assert "$(zombies_of "$DAEMON")" = '' "zombies"
}

@test "a kill -9 of the shim of an earlier daemon is seen at once, too" {
	local shim cmd ns
	up x "$SLEEPER"
	hold x
	restart_daemon
	is x pid "$shim"
	[[ $(status_field "$shim" PPid) != "$DAEMON" ]] || fail "the daemon cannot be its parent"
	bg waiter cat "$MNT/boxes/x/wait/stopped"
	await_blocked waiter
	kill -KILL "$shim"
	join waiter 2
	is x status stopped
	is x pid -1
	# What the kernel can tell of a process that another parent reaps.
	if grep -q pidfd.info <<<"$(t cat "$MNT/features")"; then
		is x exit_code 137
	else
		is x exit_code -1
	fi
	await "its parent to reap it" 10 vanished "$shim"
	nothing_left
}

@test "a thousand shims killed at once are all reaped and told within 1 s, and others are answered meanwhile" {
	local count=1000 gone right reads p99 slowest sent before
	up other "$SLEEPER"
	before=$(now)
	T=120 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/thousand.py" "$MNT/boxes" start "$count"
	say "$count boxes started in $(($(now) - before)) ms"
	assert "$(live_shims | wc -l)" -eq $((count + 1)) "shims"
	T=60 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/thousand.py" "$MNT/boxes" killall "$count"
	read -r gone right reads p99 slowest sent <<<"$out"
	say "$count SIGKILLs sent in $sent ms; no shim in /proc after $gone ms, every status right after $right ms"
	say "meanwhile $reads reads of another status: p99 $p99 us, slowest $slowest us"
	assert "$gone" -lt 1000 "milliseconds until the last shim was gone"
	assert "$right" -lt 1000 "milliseconds until the last status was right"
	assert "$reads" -ge 50 "reads meanwhile"
	assert "$p99" -lt 20000 "99th percentile of a read in microseconds"
	assert "$(live_shims | wc -l)" -eq 1 "shims"
	assert "$(zombies_of "$DAEMON")" = '' "zombies"
	is other status running
	T=60 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/thousand.py" "$MNT/boxes" remove "$count"
}
