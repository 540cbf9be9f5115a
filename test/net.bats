#!/usr/bin/env bats
#
# Orphans that become children of a daemon which is the first process of a pid
# namespace, as in a container, or a subreaper: they are reaped, and no status of a box
# is lost meanwhile.

load helpers
load hostile

setup_file() { build launch; }

setup() {
	setup_with launch
	mkfifo "$W/strew" "$W/strewn"
}

# start_as init|subreaper: sets REAPER to the pid of the daemon itself, as the test sees
# it. What the daemon tells goes to $W/events.out from the beginning.
start_as() {
	KIND=$1
	case $KIND in
	subreaper)
		LAUNCH=("$LAUNCHER" subreaper "$W/strew" "$W/strewn")
		start_daemon
		REAPER=$DAEMON
		;;
	init)
		LAUNCH=("$LAUNCHER" init)
		launch_daemon
		await "the first process" 5 is_first
		# The mount is in its own mount namespace.
		MNT=/proc/$REAPER/root$MNT
		await "boxlited to be up" 10 t cat "$MNT/version"
		assert "$(sed -n 's/^NSpid:.*\t//p' "/proc/$REAPER/status")" -eq 1 "its pid in its namespace"
		;;
	esac >>"$CALLS" 2>&1
	bg events cat "$MNT/wait/event"
	await_blocked events
	TOTAL=0
}

is_first() {
	REAPER=$(xargs <"/proc/$DAEMON/task/$DAEMON/children")
	[[ -n $REAPER && $(readlink "/proc/$REAPER/exe") == "$BOXLITED" ]]
}

# strew N CODE: N children of a process that ends now become the daemon's, and end
# with CODE. Sets out to their pids, as the daemon sees them.
strew() {
	TOTAL=$((TOTAL + $1))
	case $KIND in
	init) ok nsenter --pid --target "$REAPER" "$LAUNCHER" strew "$1" "$2" ;;
	subreaper) ok sh -c 'echo "$3 $4" >"$1" && exec cat "$2"' sh "$W/strew" "$W/strewn" "$1" "$2" ;;
	esac
	assert "$(wc -l <<<"$out")" -eq "$1" "orphans"
}

# swept: how many orphans the daemon says that it has reaped.
swept() {
	awk '$4 == "reaped" && /outcome=swept/ {
		n = 1
		for (i = 5; i <= NF; i++) if (sub(/^count=/, "", $i)) n = $i
		sum += n
	} END {print sum + 0}' "$W/events.out"
}

# all_swept: all orphans so far, and no child else.
all_swept() { (($(swept) >= TOTAL)) && no_zombies_of "$REAPER"; }

await_swept() {
	await "$TOTAL orphans to be reaped" 5 all_swept
	assert "$(swept)" -eq "$TOTAL" "orphans that the daemon tells of"
	assert "$(t sed -n 's/^boxlite_zombies_swept_total //p' "$MNT/metrics")" -eq "$TOTAL" "orphans that it counts"
}

few_and_many() {
	local pid pids
	start_as "$1"
	strew 3 7
	pids=$out
	strew 1 137
	pids+=" $out"
	await_swept
	for pid in $pids; do
		assert "$(grep -c " - reaped pid=$pid outcome=swept exit_code=" "$W/events.out")" -eq 1 "events of orphan $pid"
	done
	assert "$(grep -c ' exit_code=7$' "$W/events.out")" -eq 3 "exit codes 7"
	assert "$(grep -c " reaped pid=$out outcome=swept exit_code=137\$" "$W/events.out")" -eq 1 "exit codes 137"
	# More at once than a look takes, and than have an event each.
	strew 400 1
	await_swept
	grep -q ' - reaped outcome=swept count=[0-9]*$' "$W/events.out" || fail "of a crowd each has an event"
	ok cat "$MNT/boxes/../last_error"
	assert "$out" = ok "last_error"
}

@test "orphans of a daemon that is pid 1 are reaped and told, few and many" { few_and_many init; }

@test "orphans of a daemon that is a subreaper are reaped and told, few and many" { few_and_many subreaper; }

statuses() {
	local name boxes=(hit{1..8}) shims before
	start_as "$1"
	mkfifo "$W/over"
	bg lives sh -c 'exec /usr/bin/python3 "$@" <"$0"' "$W/over" "$BATS_TEST_DIRNAME/lives.py" "$MNT/boxes" 2
	exec {over}>"$W/over"
	for name in "${boxes[@]}"; do
		box "$name" "$SLEEPER"
	done
	before=$(now)
	for _ in {1..3}; do
		shims=()
		for name in "${boxes[@]}"; do
			ctl "$name" start
			shims+=("$(pid_of "$name")")
		done
		# Both kinds end while the daemon stands, and it stands for longer than it waits
		# with its look: when it goes on, everything is to be done at once.
		strew 20 3
		kill -STOP "$REAPER"
		await "boxlited to stand" 5 in_state "$REAPER" T
		strew 20 4
		ok nsenter --pid --target "$REAPER" kill -KILL "${shims[@]}"
		await "the shims to be zombies" 10 all_dead "${shims[@]}"
		sleep 0.1
		kill -CONT "$REAPER"
		for name in "${boxes[@]}"; do
			rd "$name/wait/stopped"
			assert "$out" = 137 "exit code of $name"
			rd "$name/events"
			assert "$(grep ' reaped ' <<<"$out" | tail -n 1)" =~ ' outcome=reaped$' "how $name was reaped"
		done
	done
	exec {over}>&-
	join lives
	assert "$rc" -eq 0 "the boxes: $err"
	say "$out boxes lived and ended beside $TOTAL orphans, in $(($(now) - before)) ms"
	assert "$out" -ge 10 "lives"
	await_swept
	remove_boxes
}

# all_dead PID…: all are zombies, of the pids that the daemon sees.
all_dead() {
	local pid
	for pid; do
		[[ $(status_field "$REAPER/root/proc/$pid" State) == Z ]] || return 1
	done
}

@test "beside orphans of a daemon that is pid 1 no box loses its exit code" { statuses init; }

@test "beside orphans of a daemon that is a subreaper no box loses its exit code" { statuses subreaper; }
