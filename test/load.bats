#!/usr/bin/env bats
#
# What other users of the host can take from root by the control filesystem: processor
# time, memory and descriptors of the daemon. They were given nothing. Root's boxes start
# and end all the same.

# What is measured here wants the machine for itself.
# bats file_tags=alone

load helpers
load hostile
load containers

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

# KILLS: "p50 p99" of the milliseconds of 100 kills of a box.
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
ms = sorted(round(1000 * kill()) for _ in range(100))
print(ms[49], ms[98])'

# kills_alone BOX: sets alone to the p99 of a kill without anything beside it: what else
# the machine is busy with.
kills_alone() {
	T=60 ok "${FIRST[@]}" /usr/bin/python3 -c "$KILLS" "$MNT/boxes/$1"
	read -r _ alone <<<"$out"
	say "a kill alone: p99 $alone ms"
}

# kills_are_prompt BOX WHAT: the p99 of a kill is under 100 ms, or, on a machine that is
# too busy for that, under 8 times what it is alone. One of three rounds has to show it.
kills_are_prompt() {
	local p50 p99 round bound
	bound=$((8 * alone > 100 ? 8 * alone : 100))
	for round in 1 2 3; do
		T=60 ok "${FIRST[@]}" /usr/bin/python3 -c "$KILLS" "$MNT/boxes/$1"
		read -r p50 p99 <<<"$out"
		say "a kill beside $2: $p50 ms, p99 $p99"
		((p99 >= bound)) || return 0
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
	kills_alone y
	flood readers every 64 "$MNT"
	kills_are_prompt y "64 threads that read"
	flood stats every 64 "$MNT/boxes/x/info.json"
	kills_are_prompt y "64 more at an info.json"
}

@test "a kill is not behind the readers that it wakes" {
	start_daemon
	box y 'command: [sleep, infinity]'
	kills_alone y
	flood user read 1500 "$MNT/wait/event"
	bg root "${FIRST[@]}" "$FLOOD" read 8500 "$MNT/boxes/y/wait/event"
	await "the readers" 30 test -s "$W/root.out"
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

@test "a job leaves nothing in the daemon while its notifier cannot be started" {
	# A file of its own, since its mode is changed.
	cp --remove-destination "$BOXLITE_BIN/boxlited" "$BOXLITED"
	start_daemon
	local before notifier
	notifier=$(notifier_of "$DAEMON")
	jobs 100
	chmod a-x "$BOXLITED"
	kill -KILL "$notifier"
	jobs 1
	await "the daemon to say so" 10 grep -q 'no notifier' "$LOG"
	before=$(rss)
	jobs 400
	say "400 jobs without a notifier: $before KiB before, $(rss) after"
	assert "$(rss)" -le $((before + 20000)) "KiB of the daemon"
	chmod a+x "$BOXLITED"
}

# jobs N: boxes that are made, configured and removed, one after the other.
jobs() {
	py 'import os, sys
text = b"command: [\"true\"]\n# " + b"x" * 60000 + b"\n"
for i in range(int(sys.argv[2])):
    box = "%s/job%d" % (sys.argv[1], i)
    os.mkdir(box)
    fd = os.open(box + "/config.yaml", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, text)
    os.close(fd)
    os.rmdir(box)' "$MNT/boxes" "$1"
}

# --- descriptors ---------------------------------------------------------------

# A box that needs no more descriptors than there are.
MODEST='command: [sleep, infinity]
rlimits: {nofile: 64}'

# life BOX: root starts a box, runs a command in it, gives its status away and kills it:
# each needs descriptors of the daemon.
life() {
	up "$1" "$MODEST"
	ok mkdir "$MNT/boxes/$1/exec/e"
	ok "${ECHO[@]}" "$MNT/boxes/$1/exec/e/cmd" 'command: [echo, here]'
	rd "$1/exec/e/stdout"
	assert "$out" = here "output of an exec"
	ok chown 65534 "$MNT/boxes/$1/status"
	ctl "$1" kill
	is "$1" status stopped
	assert "$(refused_in metrics)" -ge 0 "the metrics"
	ok rmdir "$MNT/boxes/$1/exec/e" "$MNT/boxes/$1"
}

# refused_in FILE [RESOURCE]: how often users were refused files, or bytes.
refused_in() {
	t cat "$MNT/$1" | awk -v l="resource=\"${2:-files}\"" 'index($1, "boxlite_fuse_refused_total{" l "}") == 1 {print $2}'
}

@test "a user who opens all he can leaves root what boxes need" {
	local i got before
	LAUNCH+=(prlimit --nofile=256:256)
	start_daemon
	for i in 1 2 3 4 5 6; do
		up "x$i" "$MODEST"
	done
	before=$(daemon_fds)
	flood log open 19000 "$MNT"/boxes/x{1..6}/wait/log
	assert "$out" = '16384 ENFILE' "files that a user could open"
	say "a user has 16,384 logs of 6 boxes open: the daemon had $before descriptors, has $(daemon_fds)"
	assert "$(daemon_fds)" -le $((before + 6 * 3)) "descriptors of the daemon"
	assert "$(refused_in metrics)" -ge 1 "refusals that are counted"
	life y
	# What he has open is given back.
	kill_tree "${JOB[log]}" || :
	await "the descriptors to go" 10 daemon_fds_at_most "$((before + 2))"
	flood again open 1000 "$MNT/boxes/x1/wait/log"
	assert "$out" = 1000 "files that a user could open"
}

@test "users have no more than their share of the daemon's descriptors" {
	local i
	LAUNCH+=(prlimit --nofile=120:120)
	start_daemon
	for i in {1..12}; do
		up "x$i" "$MODEST"
	done
	# A quarter of 120, 3 for each box: 10 of 12 boxes.
	flood log open 12 "$MNT"/boxes/x{1..12}/wait/log
	assert "$out" = '10 ENFILE' "boxes whose log a user could wait for"
	# Root can.
	bg root cat "$MNT/boxes/x12/wait/log"
	await_blocked root
	life y
}

@test "connections to the metrics are bounded" {
	local before port
	start_daemon --metrics-listen 127.0.0.1:0
	port=$(sed -n 's/.*address="\{0,1\}127.0.0.1:\([0-9]*\).*/\1/p' "$LOG" | head -n 1)
	before=$(daemon_fds)
	flood connect connect 500 "$port"
	assert "$out" = 500 "connections"
	await "the connections" 5 eval '(($(daemon_fds) >= before + 60))'
	say "500 connections: the daemon had $before descriptors, has $(daemon_fds)"
	assert "$(daemon_fds)" -le $((before + 70)) "descriptors of the daemon"
	life y
	kill_tree "${JOB[connect]}" || :
	py 'import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:%s/metrics" % sys.argv[1], timeout=20).read().decode())' "$port"
	assert "$out" has boxlite_build_info "the metrics"
}

@test "a user who opens what is made for him holds no more memory than he may" {
	start_daemon
	large_box x
	local before
	flood texts open 19000 "$MNT/boxes/x/info.json"
	assert "$out" =~ '^[0-9]+ EDQUOT$' "files that a user could open"
	assert "$(refused_in metrics bytes)" -ge 1 "refusals that are counted"
	before=$(rss)
	# The metrics are made anew for each open.
	T=100 bg metrics "${FIRST[@]}" setpriv --reuid 65533 --regid 65533 --clear-groups "$FLOOD" open 19000 "$MNT/metrics"
	await "the opens" 90 test -s "$W/metrics.out"
	assert "$(<"$W/metrics.out")" =~ '^[0-9]+ EDQUOT$' "metrics that a user could open"
	say "a user has $(<"$W/metrics.out") metrics open: $before KiB before, $(rss) after"
	# As much again may be garbage.
	assert "$(rss)" -le $((before + 250000)) "KiB of the daemon"
	life y
}

# orderer: gives a ctl all the commands that it takes, through one open after the other, and
# says how many opens that were, and what refused the next.
ORDERER='import errno, os, sys, time
opens = 0
try:
    while opens < 1000:
        fd = os.open(sys.argv[1], os.O_WRONLY)
        opens += 1
        for i in range(2):
            os.write(fd, b"stop 1h\n" * 512)
except OSError as e:
    print(opens, errno.errorcode[e.errno], flush=True)
time.sleep(3600)'

@test "commands that wait count against who wrote them, also when he is gone" {
	start_daemon
	stubborn x
	ok chown 1000 "$MNT/boxes/x/ctl"
	local alice=(setpriv --reuid 1000 --regid 1000 --clear-groups)
	bg orders "${alice[@]}" /usr/bin/python3 -c "$ORDERER" "$MNT/boxes/x/ctl"
	await "the commands" 20 test -s "$W/orders.out"
	assert "$(<"$W/orders.out")" = '32 EDQUOT' "opens whose commands wait"
	assert "$(refused_in metrics bytes)" -ge 1 "refusals that are counted"
	kill_tree "${JOB[orders]}" || : # one of it may be gone already
	await "it to go" 10 gone "${JOB[orders]}"
	# What was accepted waits on, and counts.
	is x status stopping
	refused EDQUOT "${alice[@]}" sh -c 'yes "stop 1h" | head -n 500 | dd bs=4000 iflag=fullblock of="$1" conv=notrunc status=none' sh "$MNT/boxes/x/ctl"
	# Neither other requests are refused for it, nor the kill that ends it all.
	ok "${alice[@]}" cat "$MNT/boxes/x/info.json"
	ok "${NOBODY[@]}" cat "$MNT/boxes/x/info.json"
	ok "${alice[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	is x status stopped
	await "her commands to be over" 20 "${alice[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" stop
	ok "${alice[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" start
	is x status running
}

# --- the disk ------------------------------------------------------------------

# kept: KiB of removed boxes that are not deleted yet.
kept() { du -sk "$STATE/trash" | cut -f 1; }
kept_at_most() { (($(kept) <= $1)); }

@test "of a removed box only the log stays for who still reads it" {
	make_rootfs
	RT=crun
	start_daemon
	up_box x 'dd if=/dev/zero of=/srv/big bs=1M count=20 2>/dev/null
echo written
exec sleep infinity' 'remove_on_exit: true'
	logs x written
	# It reads the first byte, which there is not yet, and no more.
	flood reader open 1 "$MNT/boxes/x/wait/log"
	ctl x kill
	await "the box to go" 5 no_box x
	await "its files to go" 5 kept_at_most 100
	[[ -n $(find "$STATE/trash" -name 'log.*' -size +0) ]] || fail "the log is gone: $(find "$STATE/trash")"
	kill_tree "${JOB[reader]}" || :
	await "its log to go" 5 trash_empty
}

no_box() { ! t test -e "$MNT/boxes/$1"; }
trash_empty() { [[ -z $(ls "$STATE/trash") ]]; }
