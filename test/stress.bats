#!/usr/bin/env bats
#
# Many at once, and the daemon killed at any moment.

# What is measured here wants the machine for itself.
# bats file_tags=alone

load helpers

export BATS_TEST_TIMEOUT=120

# settled BOX: it is in a state that stays.
settled() { [[ $(t cat "$MNT/boxes/$1/status") =~ ^(configured|running|paused|stopped|failed)$ ]]; }

# agrees BOX: status, pid and /proc tell one story.
agrees() {
	local status pid
	status=$(t cat "$MNT/boxes/$1/status") pid=$(pid_of "$1")
	case $status in
	running | paused) [[ $pid -gt 1 ]] && ! gone "$pid" ;;
	empty | configured | stopped | failed) [[ $pid == -1 ]] ;;
	*) return 1 ;;
	esac
}

# only_errors FILE ERRNO…: a file of messages has none but of these errnos.
only_errors() {
	local file=$1 e pattern=''
	shift
	for e; do pattern+="${pattern:+|}${ERRNO_TEXT[$e]}"; done
	! grep -vE "$pattern" "$file" | head -5 | grep . || fail "errors that are not $*"
}

@test "fifty shells that hammer one ctl for 10 s end with a state the table allows and no leak" {
	start_daemon
	watch_fds
	script x 'stop: {timeout: 100ms}' <<<'exec sleep infinity'
	local words=(start stop kill restart pause resume 'signal TERM' 'stop 10ms' start start) i
	for i in {0..49}; do
		bg "s$i" bash -c 'end=$((SECONDS + 10)); while ((SECONDS < end)); do echo "$2" >"$1"; done 2>&1 | sort | uniq -c' \
			bash "$MNT/boxes/x/ctl" "${words[i % ${#words[@]}]}"
	done
	for i in {0..49}; do
		join "s$i" 30
		cat "$W/s$i.out" "$W/s$i.err" >>"$W/said"
	done
	only_errors "$W/said" EBUSY ESRCH
	await "a state that stays" 10 settled x
	await "status, pid and /proc to agree" 10 agrees x
	ok cat "$MNT/version"
	ctl x kill
	is x pid -1
	rd x/status
	assert "$out" =~ '^(stopped|configured|failed)$' "status after the kill"
	no_shims || fail "shims are left: $(live_shims | xargs)"
	ctl x start
	is x status running
	ctl x kill
	ok rmdir "$MNT/boxes/x"
}

@test "many shells make and remove boxes of the same names" {
	start_daemon
	watch_fds
	local i
	for i in {0..9}; do
		bg "s$i" bash -c 'end=$((SECONDS + 4)); while ((SECONDS < end)); do
	b=$1/b$((RANDOM % 3))
	mkdir "$b"; echo "command: [sleep, infinity]" >"$b/config.yaml"; echo start >"$b/ctl"
	cat "$b/status" "$b/log" "$b/info.json" >/dev/null; echo kill >"$b/ctl"; rmdir "$b"
done 2>"$2"' bash "$MNT/boxes" "$W/err$i"
	done
	for i in {0..9}; do
		join "s$i" 30
	done
	cat "$W"/err? >"$W/said"
	only_errors "$W/said" EEXIST ENOENT EBUSY ENODEV ENODATA EIO
	remove_boxes
	ok ls -A "$MNT/boxes"
	assert "$out" = '' "boxes"
	no_shims || fail "shims are left: $(live_shims | xargs)"
}

@test "readers, writers and walkers beside each other" {
	start_daemon
	local i
	ok bash -c 'for i in {1..8}; do mkdir "$1/b$i" && echo "command: [sh, -c, \"seq 100\"]" >"$1/b$i/config.yaml" || exit 1; done' bash "$MNT/boxes"
	for i in {1..8}; do
		bg "run$i" bash -c 'end=$((SECONDS + 4)); while ((SECONDS < end)); do echo start >"$1/ctl" || exit 1; cat "$1/wait/stopped" >/dev/null || exit 1; done' bash "$MNT/boxes/b$i"
	done
	bg walk bash -c 'end=$((SECONDS + 4)); while ((SECONDS < end)); do find "$1" -type f -printf "%s\n" >/dev/null || exit 1; cat "$1"/boxes/*/{status,log,events,info.json} >/dev/null || exit 1; done' bash "$MNT"
	bg conf bash -c 'end=$((SECONDS + 4)); while ((SECONDS < end)); do for b in "$1"/*; do echo "command: [sh, -c, \"seq 50\"]" >"$b/config.yaml" || exit 1; done; done' bash "$MNT/boxes"
	for i in walk conf run{1..8}; do
		join "$i" 20
		assert "$rc" -eq 0 "$i: $err"
	done
}

# One client of the daemon that is going to be killed: whatever happens to it,
# it must end.
CHURN='end=$((SECONDS + 30))
while ((SECONDS < end)) && [[ ! -e $2 ]]; do
	echo start >"$1/a/ctl"; echo kill >"$1/a/ctl"
	echo "command: [sleep, infinity]" >"$1/b/config.yaml"; echo restart >"$1/b/ctl"
	mkdir "$1/c"; rmdir "$1/c"; cat "$1/b/status" "$1/b/log"
done >/dev/null 2>&1'

@test "ten kills -9 of the daemon at random moments: nobody hangs, no box is lost, the next start heals" {
	local round pid keeper boxes i
	start_daemon
	up keeper "$SLEEPER"
	keeper=$(pid_of keeper)
	box a "$SLEEPER"
	box b "$SLEEPER"
	RANDOM=20261122
	for round in {1..10}; do
		rm -f "$W/halt"
		for i in 1 2 3; do
			bg "churn$i" bash -c "$CHURN" bash "$MNT/boxes" "$W/halt"
		done
		bg waiter cat "$MNT/boxes/keeper/wait/stopped"
		# The moment is random on purpose.
		sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
		kill_daemon
		join waiter 2
		: >"$W/halt"
		for i in 1 2 3; do
			join "churn$i" 5
		done
		start_daemon
		assert "$(mount_count)" -eq 1 "mounts in round $round"
		is keeper status running
		is keeper pid "$keeper"
		ok ls "$MNT/boxes"
		boxes=$(grep -vx c <<<"$out" | xargs)
		assert "$boxes" = "a b keeper" "boxes in round $round"
		for i in a b; do
			await "status of $i to settle in round $round" 10 settled "$i"
			await "status, pid and /proc of $i to agree in round $round" 10 agrees "$i"
			is "$i" config.yaml "$SLEEPER"
			ctl "$i" kill
			is "$i" pid -1
		done
		live=$(live_shims)
		assert "$live" = "$keeper" "shims in round $round"
	done
	ctl a start
	is a status running
}
