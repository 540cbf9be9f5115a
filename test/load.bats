#!/usr/bin/env bats
#
# What other users of the host can take from root by the control filesystem: processor
# time, memory and descriptors of the daemon. They were given nothing. Root's boxes start
# and end all the same.

load helpers
load hostile

export BATS_TEST_TIMEOUT=120

setup_file() { build flood; }

setup() {
	setup_with flood
	FLOOD=$W/bin/flood
	# What else the machine does, and its disk, are not what is measured.
	LAUNCH=("${FIRST[@]}")
	STATE=$(mktemp -d /dev/shm/boxlite-test.XXXXXX)
}

FIRST=(nice -n -15)

teardown() {
	local failed=0
	common_teardown || failed=1
	rm -rf "$STATE"
	return $failed
}

# flood NAME ARG…: runs flood.c as another user until the end of the test, and waits for
# its first line, which is out then.
flood() {
	local name=$1
	shift
	T=100 bg "$name" "${FIRST[@]}" "${NOBODY[@]}" "$FLOOD" "$@"
	await "the flood" 30 test -s "$W/$name.out"
	out=$(<"$W/$name.out")
}

# kills BOX: "p50 p99" of the milliseconds of 20 kills of a box.
KILLS='import os, sys, time
def write(text):
    fd = os.open(sys.argv[1] + "/ctl", os.O_WRONLY)
    os.write(fd, text)
    os.close(fd)
def kill():
    write(b"start")
    begun = time.monotonic()
    write(b"kill")
    return time.monotonic() - begun
ms = sorted(round(1000 * kill()) for _ in range(20))
print(ms[len(ms) // 2], ms[len(ms) * 99 // 100])'

# kills_are_prompt BOX WHAT: the p99 of a kill is under 100 ms. The machine itself may
# stand still for a moment: one of three rounds has to show it.
kills_are_prompt() {
	local p50 p99 round
	for round in 1 2 3; do
		T=60 ok "${FIRST[@]}" /usr/bin/python3 -c "$KILLS" "$MNT/boxes/$1"
		read -r p50 p99 <<<"$out"
		say "a kill beside $2: $p50 ms, p99 $p99"
		((p99 >= 100)) || return 0
	done
	fail "a kill beside $2 took $p99 ms"
}

# rss: KiB of the daemon.
rss() { awk '$1 == "VmRSS:" {print $2}' "/proc/$DAEMON/status"; }

# cpu: milliseconds of processor time of the daemon.
cpu() { awk '{print 10 * ($14 + $15)}' "/proc/$DAEMON/stat"; }

# large_box NAME: a box with as large a configuration as there can be; its info.json has
# some 400 KB.
large_box() {
	box "$1" "$(awk 'BEGIN {
		print "command: [sleep, infinity]\nlabels:"
		for (i = 0; i < 1000; i++) print "  l" i ": \"<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<\""
	}')"
}

# --- processor time ------------------------------------------------------------

@test "what a file shows is made once for each state, by stat and open together" {
	start_daemon
	large_box x
	box y 'command: [sleep, infinity]'
	local before
	before=$(cpu)
	py 'import os, sys
for _ in range(500):
    for file in "x/info.json", "x/events", "../events":
        os.stat(sys.argv[1] + "/" + file)
        os.close(os.open(sys.argv[1] + "/" + file, os.O_RDONLY))' "$MNT/boxes"
	say "500 looks at an info.json of $(t stat -c %s "$MNT/boxes/x/info.json") bytes: $(($(cpu) - before)) ms of the daemon"
	assert "$(($(cpu) - before))" -lt 1500 "milliseconds of the daemon"
	# And it is never an old one.
	ctl x start
	assert "$(json x status)" = running "status in info.json"
	ctl x kill
	assert "$(json x status)" = stopped "status in info.json"
	rd x/events
	assert "$out" has 'to=stopped exit_code=137' "the events"
}

@test "an image with many labels costs no more to look at" {
	start_daemon
	start_registry
	mkdir -p "$W/root/bin"
	cp "$(type -P busybox)" "$W/root/bin/busybox"
	local i labels=() name before
	for ((i = 0; i < 300; i++)); do
		labels+=(--label "l$i=$(printf '<%.0s' {1..100})")
	done
	push "$REG/labels:1" "$W/root" "${labels[@]}"
	box x "image: docker://$REG/labels:1
command: [/bin/busybox, sleep, infinity]"
	ctl x start
	name=$(t ls "$MNT/images" | grep @)
	before=$(cpu)
	py 'import os, sys
for _ in range(1000):
    os.stat(sys.argv[1])
    os.close(os.open(sys.argv[1], os.O_RDONLY))' "$MNT/images/$name/info.json"
	say "1,000 looks at an info.json of $(t stat -c %s "$MNT/images/$name/info.json") bytes: $(($(cpu) - before)) ms of the daemon"
	assert "$(($(cpu) - before))" -lt 1500 "milliseconds of the daemon"
	# Which boxes use it is never old.
	ok cat "$MNT/images/$name/info.json"
	assert "$out" =~ '"used_by": \[[[:space:]]*"x"' "who uses it"
	ctl x kill
	ok rmdir "$MNT/boxes/x"
	ok cat "$MNT/images/$name/info.json"
	assert "$out" has '"used_by": []' "who uses it"
}

@test "a kill is not behind 64 threads of a user that read every file" {
	start_daemon
	large_box x
	box y 'command: [sleep, infinity]'
	flood readers every 64 "$MNT"
	kills_are_prompt y "64 threads that read"
	flood stats every 64 "$MNT/boxes/x/info.json"
	kills_are_prompt y "64 more at an info.json"
}

@test "a kill is not behind the readers that it wakes" {
	start_daemon
	box y 'command: [sleep, infinity]'
	flood waiters read 5000 "$MNT/wait/event"
	flood others read 5000 "$MNT/boxes/y/wait/event"
	kills_are_prompt y "10,000 readers of events"
}

# --- memory --------------------------------------------------------------------

@test "ten thousand opens of a file cost one text" {
	start_daemon
	large_box x
	ok cat "$MNT/boxes/x/info.json"
	local before
	before=$(rss)
	T=60 bg many "$FLOOD" open 10000 "$MNT/boxes/x/info.json" "$MNT/boxes/x/events" "$MNT/boxes/x/config.yaml"
	await "the opens" 60 test -s "$W/many.out"
	assert "$(<"$W/many.out")" = 10000 "files that could be opened"
	say "10,000 opens: $before KiB before, $(rss) after"
	# A copy for each would be 1.5 GB.
	assert "$(rss)" -le $((before + 100000)) "KiB of the daemon"
}
