#!/usr/bin/env bats
#
# events and log: history that ends, columns for a shell, a log that is bounded
# and fits tail -f.

load helpers

setup() {
	common_setup
	start_daemon
}

EVENT_NAMES='daemon|created|configured|command|status|health|exec|oom|reaped|removed'
EVENT_LINE="^[0-9]+ [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{9}Z [^ ]+ ($EVENT_NAMES)( .*)?\$"

# of_box BOX: name and detail of the events in out that are of a box.
of_box() { awk -v box="$1" '$3 == box {$1 = $2 = $3 = ""; print substr($0, 4)}' <<<"$out"; }

@test "an event is one line of columns" {
	up x "$SLEEPER"
	ctl x kill
	ok rmdir "$MNT/boxes/x"
	ok cat "$MNT/events"
	assert "$(grep -cvE "$EVENT_LINE" "$W/out")" -eq 0 "lines that are no event in $out"
}

@test "seq grows by one, and a new daemon begins at 1 with a daemon event" {
	up x "$SLEEPER"
	ctl x kill
	box y
	ok cat "$MNT/events"
	assert "$(cut -d' ' -f1 "$W/out" | xargs)" = "$(seq -s ' ' "$(wc -l <"$W/out")")" "column seq"
	assert "$(head -1 <<<"$out")" =~ '^1 [^ ]+ [^ ]+ daemon' "first event"
	restart_daemon
	ok cat "$MNT/events"
	assert "$(head -1 <<<"$out")" =~ '^1 [^ ]+ [^ ]+ daemon' "first event of the next daemon"
}

@test "time never goes back" {
	up x "$SLEEPER"
	ctl x kill
	ok cat "$MNT/events"
	assert "$(cut -d' ' -f2 "$W/out" | sort -c 2>&1)" = '' "order of the times"
}

@test "the life of a box is told completely and in order" {
	up x "$SLEEPER"
	ctl x kill
	ok rmdir "$MNT/boxes/x"
	ok cat "$MNT/events"
	assert "$(of_box x | cut -d' ' -f1 | uniq | xargs)" =~ '^created .*removed$' "first and last"
	assert "$(of_box x | sed -n 's/^status from=\([a-z]*\) to=\([a-z]*\).*/\1>\2/p' | xargs)" = \
		"empty>configured configured>starting starting>running running>stopping stopping>stopped" "states"
	assert "$(of_box x | grep -cx configured || of_box x | grep -c '^configured')" -ge 1 "configured"
	assert "$(of_box x | grep '^command' | xargs -d '\n')" = "command by=0:$(of_box x | sed -n 's/^command by=0:\([0-9]*\) start/\1/p') start command by=0:$(of_box x | sed -n 's/^command by=0:\([0-9]*\) kill/\1/p') kill" "commands"
	assert "$(of_box x | grep -c '^reaped')" -eq 1 "reaped"
	assert "$(of_box x | grep 'to=stopped')" =~ 'exit_code=137' "exit code"
}

@test "the events of a box are its own, and go with it" {
	up x "$SLEEPER"
	box y "$SLEEPER"
	rd y/events
	assert "$(cut -d' ' -f3 "$W/out" | sort -u)" = y "column box"
	ctl x kill
	ok rmdir "$MNT/boxes/x"
	box x
	rd x/events
	assert "$(of_box x)" = created "events of a new box of the same name"
}

@test "events keeps the last 1,024 and stays readable" {
	box x 'command: ["true"]'
	# Every line is one event at least; no process is needed for it.
	ok bash -c 'for i in {1..12}; do printf "kill\n%.0s" {1..100} >"$1" || exit 1; done' sh "$MNT/boxes/x/ctl"
	ok cat "$MNT/events"
	local n first
	n=$(wc -l <"$W/out") first=$(head -1 <<<"$out" | cut -d' ' -f1)
	assert "$n" -eq 1024 "lines"
	assert "$(cut -d' ' -f1 "$W/out" | xargs)" = "$(seq -s ' ' "$first" $((first + 1023)))" "column seq"
}

@test "a newline cannot be smuggled into the events" {
	box x "$SLEEPER"
	try "${ECHO[@]}" "$MNT/boxes/x/ctl" $'start\r'
	refused EINVAL mkdir "$MNT/boxes/"$'a\n9 t x status forged'
	ok cat "$MNT/events"
	assert "$(grep -cvE "$EVENT_LINE" "$W/out")" -eq 0 "lines that are no event"
	assert "$(grep -c forged "$W/out")" -eq 0 "forged events"
}

@test "log has what the box wrote to stdout and stderr, in order, to the byte" {
	script x <<<'echo one; echo two >&2; printf three; printf "\000\377\n" >&2'
	ctl x start
	rd x/wait/stopped
	ok cat "$MNT/boxes/x/log"
	printf 'one\ntwo\nthree\000\377\n' | cmp - "$W/out" || fail "log: $(od -c "$W/out")"
}

@test "all of the log is there when wait/stopped returns" {
	local i
	for i in 1 2 3; do
		box "r$i" 'command: [seq, "1", "20000"]'
		ctl "r$i" start
		rd "r$i/wait/stopped"
		ok sh -c 'seq 1 20000 | cmp - "$1"' sh "$MNT/boxes/r$i/log"
	done
}

@test "the log is read while the box runs, and grows" {
	script x <<<'echo one; trap "echo two" USR1; while :; do sleep 0.02; done'
	ctl x start
	logs x one
	ok stat -c %s "$MNT/boxes/x/log"
	assert "$out" -eq 4 "size"
	ctl x 'signal USR1'
	logs x two
	ok stat -c %s "$MNT/boxes/x/log"
	assert "$out" -eq 8 "size"
	ok tail -n 1 "$MNT/boxes/x/log"
	assert "$out" = two "last line"
}

@test "tail -f follows the log of a running box" {
	script x <<<'echo one; trap "echo two" USR1; while :; do sleep 0.02; done'
	ctl x start
	logs x one
	bg tail tail -f -s 0.05 "$MNT/boxes/x/log"
	await "the first line" 5 grep -q one "$W/tail.out"
	ctl x 'signal USR1'
	await "the second line" 5 grep -q two "$W/tail.out"
	assert "$(<"$W/tail.out")" = $'one\ntwo' "what tail printed"
}

@test "a second run appends to the log of the first" {
	box x 'command: [echo, hello]'
	ctl x start
	rd x/wait/stopped
	ctl x start
	rd x/wait/stopped
	is x log $'hello\nhello'
}

@test "the log is bounded: one rotated file is kept" {
	script x 'log: {max_size: 64KiB}' <<<'seq -f "line %010.0f" 1 100000'
	ctl x start
	T=30 rd x/wait/stopped
	assert "$(du -bc "$STATE"/boxes/x/log* | tail -1 | cut -f1)" -le $((2 * 65536 + 65536)) "bytes on disk"
	assert "$(find "$STATE/boxes/x" -name 'log*' | wc -l)" -le 2 "log files"
	ok sh -c 'tail -n 1 "$1"' sh "$MNT/boxes/x/log"
	assert "$out" = "line 0000100000" "last line"
	ok sh -c 'tail -c 40000 "$1" | tail -n +2 | head -n 2000' sh "$MNT/boxes/x/log"
	assert "$(head -1 <<<"$out")" =~ '^line 00000[0-9]+$' "a line in the middle"
}

@test "tail -f sees every line across rotations" {
	script x 'log: {max_size: 64KiB}' <<<'echo begin
trap "go=1" USR1
while [ -z "$go" ]; do sleep 0.02; done
i=0
while [ $i -lt 60 ]; do seq -f "line %010.0f" $((i * 100 + 1)) $((i * 100 + 100)); i=$((i + 1)); sleep 0.02; done
echo end'
	ctl x start
	logs x begin
	bg tail tail -n +1 -f -s 0.02 "$MNT/boxes/x/log"
	await "tail to follow" 5 grep -q begin "$W/tail.out"
	ctl x 'signal USR1'
	await "the last line" 20 grep -q end "$W/tail.out"
	{
		echo begin
		seq -f 'line %010.0f' 1 6000
		echo end
	} | cmp - "$W/tail.out" || fail "tail lost or repeated lines: $(diff <(seq -f 'line %010.0f' 1 6000) "$W/tail.out" | head -5)"
	assert "$(find "$STATE/boxes/x" -name 'log*' | wc -l)" -le 2 "log files"
}

@test "a box that writes without end is neither stopped nor slowed to death by nobody reading" {
	box x $'command: [sh, -c, "yes | head -c 20000000; echo; echo finished"]\nlog: {max_size: 256KiB}'
	ctl x start
	T=30 rd x/wait/stopped
	assert "$out" = 0 "exit code"
	ok tail -n 1 "$MNT/boxes/x/log"
	assert "$out" = finished "last line"
}

@test "the log of a box survives the daemon" {
	script x <<<'echo one; trap "echo two" USR1; while :; do sleep 0.02; done'
	ctl x start
	logs x one
	stop_daemon
	# The shim goes on writing while there is no daemon.
	kill -USR1 "$(box_command "$(live_shims)")"
	written() { cat "$STATE"/boxes/x/log* | grep -q two; }
	await "the second line on disk" 5 written
	start_daemon
	is x log $'one\ntwo'
}

@test "an old descriptor of a removed box's log reads ENODEV, its path ENOENT" {
	box x 'command: [echo, hello]'
	ctl x start
	rd x/wait/stopped
	py 'import errno, os, sys
fd = os.open(sys.argv[1] + "/log", os.O_RDONLY)
print(os.read(fd, 3))
os.rmdir(sys.argv[1])
for f in (lambda: os.read(fd, 3), lambda: os.open(sys.argv[1] + "/log", os.O_RDONLY)):
    try:
        print(f())
    except OSError as e:
        print(errno.errorcode[e.errno])' "$MNT/boxes/x"
	assert "$out" = $'b\'hel\'\nENODEV\nENOENT' "reads"
}
