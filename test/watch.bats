#!/usr/bin/env bats
#
# Watchers see what the daemon changes as they see what clients do, and no order of
# ends of daemon, notifier and client leaves anything behind.

load helpers

setup() {
	common_setup
	start_daemon
	WATCH=$BATS_TEST_DIRNAME/watch.py
}

# notifier: the pid of the daemon's notifier, once it works.
notifier() { notifier_of "$DAEMON"; }
has_notifier() { [[ $(notifier) =~ ^[0-9]+$ ]]; }
await_notifier() { await "the notifier" 5 has_notifier; }

# watch NAME PATH…: inotifywait, in the background; its lines are PATH EVENT FILE.
watch() {
	local name=$1
	shift
	bg "$name" inotifywait -m --format '%w %e %f' "${@/#/$MNT/}"
	await "$name to watch" 5 grep -q '^Watches established' "$W/$name.err"
}

# sees NAME LINE…: each of the lines comes.
sees() {
	local name=$1 line
	shift
	for line; do
		await_quietly 5 seen "$name" "$line" || fail "$name should see $line, saw: $(cat "$W/$name.out")"
	done
}
seen() { sed 's/ *$//' "$W/$1.out" | grep -qxF -- "$MNT/$2"; }

@test "the files of a box are watched by inotifywait" {
	local file
	box x "$SLEEPER"
	for file in status pid exit_code last_error events info.json config.yaml; do
		watch "$file" "boxes/x/$file"
	done
	ctl x start
	for file in status pid events info.json; do
		sees "$file" "boxes/x/$file MODIFY"
	done
	assert "$(cat "$W"/{exit_code,last_error}.out)" = '' "what was seen of files that did not change"
	ctl_refused EINVAL x nonsense
	sees last_error "boxes/x/last_error MODIFY"
	ctl x kill
	sees exit_code "boxes/x/exit_code MODIFY"
	configure x <<<'command: ["true"]'
	sees config.yaml "boxes/x/config.yaml MODIFY"
}

@test "a box's directory shows what changed, though nobody ever looked at the files" {
	box x "$SLEEPER"
	watch dir boxes/x
	ctl x start
	sees dir "boxes/x/ MODIFY status" "boxes/x/ MODIFY pid" "boxes/x/ MODIFY events"
	ctl_refused EINVAL x nonsense
	sees dir "boxes/x/ MODIFY last_error"
	ctl x kill
	sees dir "boxes/x/ MODIFY exit_code"
}

@test "events and last_error at the root are watched" {
	watch events events
	watch last_error last_error
	refused EINVAL mkdir "$MNT/boxes/-"
	sees last_error "last_error MODIFY"
	box x
	sees events "events MODIFY"
}

@test "boxes/ shows boxes that come and go, whoever makes and removes them" {
	local n
	watch boxes boxes
	box x
	ok rmdir "$MNT/boxes/x"
	sees boxes "boxes/ CREATE,ISDIR x" "boxes/ DELETE,ISDIR x"
	# A name is told to be gone before it can be had again.
	for n in {1..20}; do
		: >"$W/boxes.out"
		box y $'command: ["true"]\nremove_on_exit: true'
		ctl y start
		await "the name to be free" 5 t mkdir "$MNT/boxes/y" 2>/dev/null
		ok rmdir "$MNT/boxes/y"
		sees boxes "boxes/ DELETE,ISDIR y"
		await "all to be seen" 5 four_events
		assert "$(sed 's/.*boxes\/ \([A-Z]*\).*/\1/' "$W/boxes.out" | xargs)" = "CREATE DELETE CREATE DELETE" "events"
	done
}
four_events() { (($(wc -l <"$W/boxes.out") == 4)); }

@test "whoever watches a file of a box is told of its end" {
	box x
	box y $'command: ["true"]\nremove_on_exit: true'
	watch x boxes/x/status
	watch y boxes/y/status
	watch dir boxes/x
	ok rmdir "$MNT/boxes/x"
	sees x "boxes/x/status DELETE_SELF"
	sees dir "boxes/x/ DELETE_SELF"
	ctl y start
	sees y "boxes/y/status DELETE_SELF"
}

@test "the last state is never missed in 200 rounds of rapid changes" {
	box x "$SLEEPER"
	T=60 ok /usr/bin/python3 "$WATCH" follow "$MNT/boxes/x" 200
}

# bats test_tags=alone
@test "a death is in the watcher's hands within 20 ms" {
	box x "$SLEEPER"
	T=60 ok /usr/bin/python3 "$WATCH" death "$MNT/boxes/x" 50
	local median
	median=$(sort -n <<<"$out" | sed -n 25p)
	echo "# from the death to the event: median $median ms" >&3
	assert "${median%.*}" -lt 20 "median in ms"
}

# entr takes a MODIFY for a change only if it is told to, and it loses what happens
# just after a run, on any filesystem.
@test "entr runs its command at each change" {
	box x
	bg entr sh -c 'ls "$1" | ENTR_INOTIFY_WORKAROUND=1 entr -n cat "$1"' sh "$MNT/boxes/x/last_error"
	await "entr's first run" 5 grep -qx ok "$W/entr.out"
	NUDGES=0
	await "entr's next run" 10 nudged
	await "entr's last run" 10 nudged
}
nudged() {
	NUDGES=$((NUDGES + 1))
	ctl_refused EINVAL x "nonsense$NUDGES"
	await_quietly 1 grep -q "nonsense$NUDGES\b" "$W/entr.out"
}

@test "Node's fs.watch sees changes of a file and of the directory" {
	box x "$SLEEPER"
	bg node node -e '
		const fs = require("fs"), dir = process.argv[1]
		fs.watch(dir + "/status", () => console.log("file", fs.readFileSync(dir + "/status", "utf8").trim()))
		fs.watch(dir, (event, name) => console.log("dir", event, name))
		console.log("watching")' "$MNT/boxes/x"
	await "node to watch" 10 grep -qx watching "$W/node.out"
	ctl x start
	await "the file" 5 grep -qx 'file running' "$W/node.out"
	await "the directory" 5 grep -qx 'dir change pid' "$W/node.out"
	ctl x kill
	await "the last state" 5 grep -qx 'file stopped' "$W/node.out"
}

@test "the notifier has no descriptor of /dev/fuse, a session of its own and a name" {
	await_notifier
	local pid
	pid=$(notifier)
	assert "$(find "/proc/$pid/fd" -lname '/dev/fuse*' | wc -l)" -eq 0 "descriptors of /dev/fuse"
	assert "$(find "/proc/$DAEMON/fd" -lname '/dev/fuse*' | wc -l)" -ge 1 "descriptors of /dev/fuse of the daemon"
	assert "$(find "/proc/$pid/fd" -lname "$STATE/*" | wc -l)" -eq 0 "files of the state directory"
	assert "$(ps -o sid= -p "$pid" | xargs)" -eq "$pid" "session"
	assert "$(ps -o args= -p "$pid")" has "boxlited: notifier $MNT" "how ps shows it"
}

@test "a notifier that is stopped or killed is replaced, and nothing is missed" {
	local old new sig
	box x "$SLEEPER"
	for sig in STOP KILL TERM; do
		await_notifier
		old=$(notifier)
		bg watcher /usr/bin/python3 "$WATCH" until "$MNT/boxes/x/status" running
		await "the watcher" 5 grep -q watching "$W/watcher.out"
		kill -s "$sig" "$old"
		ctl x start
		join watcher
		assert "$rc" -eq 0 "the watcher after SIG$sig: $err"
		await "the old notifier to vanish" 5 vanished "$old"
		new=$(notifier)
		[[ -n $new && $new != "$old" ]] || fail "the notifier was $old, and is $new"
		ctl x kill
	done
}

@test "a notifier that is killed while nothing changes is no zombie" {
	await_notifier
	local pid
	pid=$(notifier)
	kill -KILL "$pid"
	await "it to vanish" 5 vanished "$pid"
}

@test "nobody waits for a notifier that is stopped" {
	local began i
	box gone $'command: ["true"]\nremove_on_exit: true'
	await_notifier
	kill -STOP "$(notifier)"
	began=$(now)
	for i in 1 2 3; do
		box "x$i" "$SLEEPER"
		ctl "x$i" start
		ctl "x$i" kill
		ok rmdir "$MNT/boxes/x$i"
	done
	assert "$(($(now) - began))" -lt 800 "ms for three lives"
	ctl gone start
	await "the name to be free" 5 t mkdir "$MNT/boxes/gone" 2>/dev/null
}

@test "an orderly end takes less than 2 s with watchers, and with a notifier that is stopped" {
	local began sig pid
	for sig in CONT STOP; do
		has_box x || up x "$SLEEPER"
		watch "w$sig" boxes boxes/x boxes/x/status
		await_notifier
		pid=$(notifier)
		kill -s "$sig" "$pid"
		began=$(now)
		stop_daemon
		assert "$(($(now) - began))" -lt 2000 "ms"
		assert "$DAEMON_RC" -eq 0 "exit status"
		vanished "$pid" || fail "the notifier outlives the daemon"
		assert "$(mount_count)" -eq 0 "mounts"
		start_daemon
	done
}
has_box() { t test -d "$MNT/boxes/$1"; }

@test "the notifier of a killed daemon goes by itself" {
	await_notifier
	local pid
	pid=$(notifier)
	kill -KILL "$DAEMON"
	await "the notifier to go" 2 gone "$pid"
	kill_daemon
}

# wakeups PID…: how often their threads have been switched to so far.
wakeups() {
	local pid
	for pid; do
		cat "/proc/$pid/task/"*/status
	done | awk '/ctxt_switches/ {n += $2} END {print n}'
}

# A ticker would be seen in each of the seconds.
@test "daemon and notifier do not wake up while nothing changes" {
	up x "$SLEEPER"
	watch status boxes/x/status
	await_notifier
	await "two seconds of silence" 30 silent_for 2 "$DAEMON" "$(notifier)"
}
silent_for() {
	local seconds=$1 before
	shift
	before=$(wakeups "$@")
	sleep "$seconds"
	(($(wakeups "$@") == before))
}

@test "no order of ends of daemon, notifier and client leaves a hung mount, in 100 rounds" {
	stop_daemon
	T=80 try /usr/bin/python3 "$BATS_TEST_DIRNAME/ends.py" "$BOXLITED" "$SHIM" "$MNT" "$STATE" 100
	echo "# $(head -1 <<<"$out")" >&3
	assert "$rc" -eq 0 "$(tail -5 <<<"$err"); exit status"
	assert "$(mount_count)" -eq 0 "mounts"
	no_shims || fail "shims are left: $(live_shims | xargs)"
}
