#!/usr/bin/env bats
#
# Readers of the blocking files in numbers, and slow ones: each is woken once and
# right, and none holds up the daemon or grows it.

# What is measured here wants the machine for itself.
# bats file_tags=alone

load helpers
load hostile

export BATS_TEST_TIMEOUT=240

setup() {
	common_setup
	start_daemon
}

# waiters WHAT [ARG…]: see waiters.py.
waiters() {
	T=120 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/waiters.py" "$MNT/boxes" "$@"
	say "$out"
}

# rss: KiB of the daemon.
rss() { awk '$1 == "VmRSS:" {print $2}' "/proc/$DAEMON/status"; }

# goroutines [PATTERN]: how many the daemon has, or that many lines of their stacks.
goroutines() {
	: >"$LOG"
	kill -USR1 "$DAEMON"
	await "the stacks" 5 grep -q main.serve "$LOG"
	grep -c "${1:-^goroutine }" "$LOG" || :
}

few_goroutines() { (($(goroutines) <= $1)); }

@test "a thousand readers blocked on a hundred boxes are each woken once and right" {
	local connection before
	connection=/sys/fs/fuse/connections/$(awk -v m="$MNT" '$5 == m {sub(/.*:/, "", $3); print $3}' /proc/self/mountinfo)
	watch_fds
	up other "$SLEEPER"
	before=$(goroutines)
	waiters crowd "$connection" "$DAEMON"
	waiters crowd "$connection" "$DAEMON"
	# A buffer of what cat asks for at once would be 128 KiB for each.
	assert "$(rss)" -le 96000 "KiB of the daemon"
	assert "$(<"$connection/waiting")" -eq 0 "requests without an answer"
	assert "$(goroutines 'streamHandle).Read')" -eq 0 "goroutines of readers"
	# go-fuse keeps a few of its own.
	await "the goroutines to end" 10 few_goroutines $((before + 20))
}

@test "slow readers of a box's events are told once what they lost, and hold up nobody" {
	box x 'command: ["true"]'
	waiters events x wait/event "$DAEMON"
}

@test "slow readers of all events are told once what they lost, and hold up nobody" {
	box x 'command: ["true"]'
	waiters events x ../../wait/event "$DAEMON"
}

@test "slow readers of a log that is rotated are told what they lost, and get the rest of their run alone" {
	box x
	waiters log x "$DAEMON"
}

@test "a read that asks for more than there is gets what there is" {
	script x <<<'trap "head -c 524288 /dev/zero" USR1
echo ready
sleep infinity & while :; do wait; done'
	ctl x start
	logs x ready
	py 'import os, sys
fd = os.open(sys.argv[1] + "/wait/log", os.O_RDONLY)
ctl = os.open(sys.argv[1] + "/ctl", os.O_WRONLY)
os.write(ctl, b"signal USR1\n")
os.close(ctl)
while os.stat(sys.argv[1] + "/log").st_size < 524288 + 6:
    pass
# What is there is a multiple of what the kernel asks for at once.
left = 524288
while left:
    left -= len(os.read(fd, 1 << 20))
' "$MNT/boxes/x"
}

graves() { T=60 ok /usr/bin/python3 "$BATS_TEST_DIRNAME/waiters.py" "$MNT/boxes" graves "$1"; }

@test "what was open when its box was removed costs nothing once it is closed" {
	local before
	# What the daemon needs for the first ones does not count.
	graves 500
	before=$(rss)
	graves 1000
	say "1,000 boxes that were removed under a reader: $before KiB before, $(rss) after"
	assert "$(rss)" -le $((before + 6000)) "KiB of the daemon"
}
