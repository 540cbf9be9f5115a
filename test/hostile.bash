# shellcheck shell=bash
#
# Helpers of the suites in which boxes are hard to get rid of.

# say TEXT: shows a number in the output of the run.
say() { echo "# $*" >&3; }

# build PROGRAM: once a suite, from setup_file: the program of PROGRAM.c.
build() {
	gcc -O2 -Wall -Wextra -Werror -static -o "$BATS_FILE_TMPDIR/$1" "$BATS_TEST_DIRNAME/$1.c"
}

# setup_with PROGRAM: as common_setup, with what build has made at $HOSTILE or
# $LAUNCHER. It lies beside the daemon, so that teardown finds what is left of it.
setup_with() {
	common_setup
	HOSTILE=$W/bin/hostile LAUNCHER=$W/bin/launch
	cp "$BATS_FILE_TMPDIR/$1" "$W/bin/$1"
}

# hostile BOX MODE [ARG…] [-- CONFIG…]: runs a box with the program.
hostile() {
	local name=$1 words=$HOSTILE
	shift
	while (($#)) && [[ $1 != -- ]]; do
		words+=", \"$1\""
		shift
	done
	shift || :
	up "$name" "$(printf '%s\n' "command: [$words]" "$@")"
}

# hold BOX: sets shim and cmd to the pids of a running box, and holds its namespace
# in ns, for box_is_whole and nothing_left.
hold() {
	shim=$(pid_of "$1")
	hold_namespace "$shim"
	cmd=$(box_command "$shim")
}

# nothing_left: neither the shim nor a process of the box of the last hold is left,
# nor a zombie of them.
nothing_left() {
	vanished "$shim" || fail "/proc/$shim is still there: $(grep State "/proc/$shim/status")"
	[[ -z $(ns_pids "$ns") ]] || fail "processes are left: $(ps -o pid=,ppid=,stat=,comm= -p "$(ns_pids "$ns" | paste -sd,)")"
}

# has_processes N: as many are in the box of the last hold, the shim among them.
has_processes() { (($(ns_pids "$ns" | wc -l) == $1)); }

status_field() { awk -v f="$2:" '$1 == f {print $2}' "/proc/$1/status" 2>/dev/null; }
in_state() { [[ $(status_field "$1" State) == "$2" ]]; }
all_in_state() {
	local want=$1 pid
	shift
	for pid; do in_state "$pid" "$want" || return 1; done
}

# timed CMD…: sets took to the milliseconds it took.
timed() {
	local before
	before=$(now)
	"$@"
	took=$(($(now) - before))
}

# --- a foreign freezer -------------------------------------------------------
#
# A v1 freezer cgroup of the test's own: what is frozen in it does not die of
# SIGKILL before it is thawed.

# make_freezer: sets FREEZER to a new cgroup. Where no v1 freezer is mounted, it
# mounts one.
make_freezer() {
	local root
	root=$(awk '{for (i = 7; i <= NF; i++) if ($i == "-") {
		if ($(i + 1) == "cgroup" && $(i + 3) ~ /(^|,)freezer(,|$)/) {print $5; exit}
	}}' /proc/self/mountinfo)
	if [[ -z $root ]]; then
		root=$W/freezer
		mkdir "$root"
		mount -t cgroup -o freezer none "$root"
	fi
	FREEZER=$(mktemp -d "$root/boxlite-test.XXXXXX")
}

# freeze PID…: all of them, with their threads.
freeze() {
	local pid
	for pid; do
		echo "$pid" >"$FREEZER/cgroup.procs"
	done
	echo FROZEN >"$FREEZER/freezer.state"
	await "the cgroup to be frozen" 10 freezer_is FROZEN
}
freezer_is() { [[ $(<"$FREEZER/freezer.state") == "$1" ]]; }

thaw() { echo THAWED >"$FREEZER/freezer.state"; }

# drop_freezer thaws what is frozen, in any case, and removes the cgroup once it is
# empty: to be called before and after common_teardown, which ends the processes.
drop_freezer() {
	[[ -d ${FREEZER:-} ]] || return 0
	thaw
	[[ ${1:-} == now ]] || return 0
	await_quietly 10 rmdir "$FREEZER" 2>/dev/null || {
		echo "the cgroup $FREEZER cannot be removed: it has processes $(xargs <"$FREEZER/cgroup.procs")"
		return 1
	}
}

# --- what cannot die ---------------------------------------------------------

# timed_out BOX COMMAND MS WHY: the close says ETIMEDOUT after MS ± 200 ms, nothing
# is given up, last_error has WHY, and meanwhile and afterwards nobody else is held
# up. BOX is that of the last hold. Too early is wrong at once. Too late may be the machine's doing, so one
# of three has to be in time.
timed_out() {
	local files ms usual said try
	life
	usual=$ms
	files=$(ls "$STATE/boxes/$1")
	for try in 1 2 3; do
		bg close /usr/bin/python3 -c 'import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY)
began = time.monotonic()
os.write(fd, sys.argv[2].encode() + b"\n")
try:
    os.close(fd)
    said = "nothing"
except OSError as e:
    said = os.strerror(e.errno)
print(round((time.monotonic() - began) * 1000), said)' "$MNT/boxes/$1/ctl" "$2"
		becomes "$1" status stopping
		others_go_on
		join close
		read -r ms said <<<"$out"
		assert "$said" = 'Connection timed out' "what the close of $2 says"
		say "$2: ETIMEDOUT after $ms ms"
		assert "$ms" -ge $(($3 - 200)) "milliseconds of $2"
		if ((ms <= $3 + 200)); then
			break
		fi
		((try < 3)) || fail "$2 has taken $ms ms"
	done
	others_go_on
	is "$1" status stopping
	is "$1" pid "$shim"
	is "$1" exit_code -1
	rd "$1/last_error"
	assert "$out" =~ "process $shim was killed 2s ago and is in state [A-Za-z]$4" "last_error"
	refused EBUSY rmdir "$MNT/boxes/$1"
	ctl_refused EBUSY "$1" start
	assert "$(ls "$STATE/boxes/$1")" = "$files" "files of the box"
	vanished "$shim" && fail "the shim is gone"
	return 0
}

# life: another box lives its whole life; sets ms to how long that took.
life() {
	local before
	before=$(now)
	up other "$SLEEPER"
	ctl other stop
	ctl other start
	is other status running
	ctl other kill
	ok rmdir "$MNT/boxes/other"
	ok ls -l "$MNT/boxes"
	ms=$(($(now) - before))
}

# others_go_on: at the speed that it had before, as far as the machine lets.
others_go_on() {
	local ms
	life
	((ms < 1000 + 4 * usual)) || fail "the life of another box took $ms ms, and $usual ms before"
}

# heals BOX: it has become stopped by itself, once, and can be removed.
heals() {
	T=5 becomes "$1" status stopped
	is "$1" exit_code 137
	is "$1" pid -1
	nothing_left
	rd "$1/events"
	assert "$(grep -c 'to=stopped' <<<"$out")" -eq 1 "times that it became stopped"
	assert "$(grep -c " reaped pid=$shim " <<<"$out")" -eq 1 "times that it was reaped"
	rd "$1/wait/stopped"
	assert "$out" = 137 "wait/stopped"
	ok rmdir "$MNT/boxes/$1"
	[[ ! -e $STATE/boxes/$1 ]] || fail "the state directory still has the box"
}
