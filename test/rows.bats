#!/usr/bin/env bats
#
# What must be seen from outside, in /proc, of a box that ends: by a kill of the
# daemon or of somebody else, alone and in crowds.

# What is measured here wants the machine for itself.
# bats file_tags=alone

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
	# The kernel tells how it ended once its parent has reaped it, if it can tell at
	# all; if that takes long, nobody has witnessed it.
	rd x/exit_code
	assert "$out" =~ '^(137|-1)$' "exit code"
	await "its parent to reap it" 10 vanished "$shim"
	nothing_left
}

# thousand WHAT: see thousand.py.
thousand() { T=100 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/thousand.py" "$MNT/boxes" "$1" 1000; }

@test "a thousand shims killed at once are all reaped and told within 1 s, and others are answered meanwhile" {
	local round gone right reads p99 slowest others bound before as_promised=''
	up other "$SLEEPER"
	before=$(now)
	thousand start
	say "1,000 boxes started in $(($(now) - before)) ms"
	# One round has to be as promised, of at most three. What has to be seen at the
	# end of each is no matter of luck.
	for round in 1 2 3; do
		assert "$(live_shims | wc -l)" -eq 1001 "shims"
		thousand killall
		read -r gone right reads p99 slowest others <<<"$out"
		say "no shim left after $gone ms, every status right after $right ms;" \
			"$reads reads of another status meanwhile: p99 $p99 us, slowest $slowest us ($others % other work)"
		assert "$(live_shims | wc -l)" -eq 1 "shims"
		assert "$(zombies_of "$DAEMON")" = '' "zombies"
		is other status running
		assert "$reads" -ge 50 "reads meanwhile"
		# The promise is that of a machine that has nothing else to do. Where the
		# processors are shared with others, it takes as much longer.
		bound=$((100 + others))
		if ((right * 100 < 1000 * bound && p99 * 100 < 20000 * bound)); then
			as_promised=yes
			break
		fi
		((round == 3)) || thousand again
	done
	thousand remove
	[[ -n $as_promised ]] || fail "in no round every status was right within 1 s and the p99 of a read below 20 ms"
}

# in_its_own_namespace CMD…: CMD is the first process of a new pid namespace. All
# that it has started ends with it.
in_its_own_namespace() {
	T=60 ok unshare --pid --fork --kill-child --mount-proc -- "$@"
}

@test "a pid that a stranger has now is not signalled, and the box is stopped" {
	local case cases=(alive named plain name)
	! grep -q pidfd.inode <<<"$(t cat "$MNT/features")" || cases+=(tick noinode)
	stop_daemon
	for case in "${cases[@]}"; do
		mkdir -p "$W/$case/mnt"
		in_its_own_namespace /usr/bin/python3 "$BATS_TEST_DIRNAME/reuse.py" "$W/bin/boxlited" "$W/bin/boxlite-shim" "$W/$case" "$case"
		say "$out"
	done
}

# adopt DIR WHAT: see adopt.py.
adopt() { T=60 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/adopt.py" "$1" "$2" 200 "$W/notes"; }

@test "two hundred boxes are adopted within 1 s, and those that ended meanwhile have their codes" {
	local round took as_promised=''
	adopt "$MNT/boxes" up
	kill_daemon
	adopt "$STATE" end
	# One start has to be as promised, of at most three.
	for round in 1 2 3; do
		timed start_daemon
		adopt "$MNT/boxes" check
		say "200 boxes: the mount answers $took ms after the start of the daemon"
		if ((took < 1000)); then
			as_promised=yes
			break
		fi
		kill_daemon
	done
	[[ -n $as_promised ]] || fail "in no round the mount answered within 1 s"
	remove_boxes
}
