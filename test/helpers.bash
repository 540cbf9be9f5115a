# shellcheck shell=bash
#
# Helpers of the bats suites. Every test gets a work directory ($W) with a
# mount ($MNT) and a state directory ($STATE) of its own, and its own hard links
# of the binaries: so everything that a test has started is found by the path
# of its executable, and nobody else's process is ever touched.
#
# Three rules keep a hung filesystem from hanging the suite:
#   - the mount is only touched by another process under a time limit (try, ok,
#     refused, bg), never by bash itself: no redirect, no [ -e ], no cd;
#   - what has to be waited for is awaited with a bound (await);
#   - teardown aborts the FUSE connection before it unmounts.

bats_require_minimum_version 1.8.0

# One test must not take longer than this, whatever hangs.
export BATS_TEST_TIMEOUT=${BATS_TEST_TIMEOUT:-90}

# What a caller has in its environment must not decide how a test ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C TZ=UTC
umask 022

# The text that tools print for an errno.
declare -gA ERRNO_TEXT=(
	[EPERM]="Operation not permitted"
	[ENOENT]="No such file or directory"
	[ESRCH]="No such process"
	[EINTR]="Interrupted system call"
	[EIO]="Input/output error"
	[EPIPE]="Broken pipe"
	[E2BIG]="Argument list too long"
	[EAGAIN]="Resource temporarily unavailable"
	[EACCES]="Permission denied"
	[EBUSY]="Device or resource busy"
	[EEXIST]="File exists"
	[EDQUOT]="Disk quota exceeded"
	[ENODEV]="No such device"
	[ENOTDIR]="Not a directory"
	[EISDIR]="Is a directory"
	[EINVAL]="Invalid argument"
	[EFBIG]="File too large"
	[ENODATA]="No data available"
	[ENOTCONN]="Transport endpoint is not connected"
	[ECONNABORTED]="Software caused connection abort"
	[ESHUTDOWN]="Cannot send after transport endpoint shutdown"
	[ECANCELED]="Operation canceled"
)

# --- setup and teardown ------------------------------------------------------

# common_setup makes the work directory. It starts nothing.
common_setup() {
	W=$(mktemp -d "${TMPDIR:-/tmp}/boxlite-test.XXXXXX")
	# Other users have to get through to the mount.
	chmod 0755 "$W"
	MNT=$W/mnt STATE=$W/state LOG=$W/daemon.log CALLS=$W/calls.log
	DAEMON='' DAEMON_RC='' FDS_BEFORE=''
	BG_PIDS=() LAUNCH=()
	mkdir "$W/bin" "$MNT"
	cp -l "$BOXLITE_BIN"/{boxlited,boxlite-shim} "$W/bin/" 2>/dev/null ||
		cp "$BOXLITE_BIN"/{boxlited,boxlite-shim} "$W/bin/"
	BOXLITED=$W/bin/boxlited SHIM=$W/bin/boxlite-shim
	: >"$LOG"
	: >"$CALLS"
	set -u -o pipefail
}

# common_teardown ends what the test has left running, then fails the test for
# what should not have been there. It may run twice.
common_teardown() {
	set +e
	# The limit of the test must not cut this short: every wait here has its own.
	trap '' ABRT
	[[ -d ${W:-} ]] || return 0
	local leaks=$W/leaks pid pids ns dir groups
	: >"$leaks"

	for pid in "${BG_PIDS[@]}"; do
		kill_tree "$pid"
	done
	BG_PIDS=()
	# A process that waits for the mount within execve keeps everybody waiting who looks for
	# processes in /proc.
	await_quietly 5 nothing_waits || {
		echo "requests to the mount are not answered" >>"$leaks"
		abort_mounts
	}

	if daemon_alive; then
		if [[ $(mount_type) == fuse.boxlite ]]; then
			await_quietly 5 shims_as_told ||
				echo "live shims ($(live_shims | xargs)) are not those of boxes/*/pid ($(told_pids | xargs))" >>"$leaks"
			if [[ -n $FDS_BEFORE ]]; then
				remove_boxes
				await_quietly 5 daemon_fds_at_most "$FDS_BEFORE" || {
					echo "the daemon had $FDS_BEFORE descriptors, has $(daemon_fds):"
					ls -l "/proc/$DAEMON/fd"
				} >>"$leaks" 2>&1
			fi
		fi
		await_quietly 5 no_zombies_of "$DAEMON" ||
			echo "zombie children of the daemon: $(zombies_of "$DAEMON" | xargs)" >>"$leaks"
		stop_daemon
		[[ $DAEMON_RC == 0 ]] || echo "the daemon did not stop cleanly: status $DAEMON_RC" >>"$leaks"
	fi

	# What is frozen cannot die.
	groups_left | grep '^/sys/fs/cgroup/freezer/' | while read -r dir; do
		echo THAWED >"$dir/freezer.state"
	done

	# Detached boxes outlive the daemon: that is their right, and no leak.
	mapfile -t pids < <(live_shims)
	if ((${#pids[@]})); then
		for pid in "${pids[@]}"; do
			! hold_namespace "$pid" || echo "$ns"
		done >"$W/namespaces"
		kill -KILL "${pids[@]}" 2>/dev/null
		await_quietly 5 no_shims || echo "shims that do not die: $(live_shims | xargs)" >>"$leaks"
		await_quietly 5 namespaces_empty "$W/namespaces" ||
			echo "processes outlive the shim of their box" >>"$leaks"
	fi
	# What a killed daemon has left is the next one's to remove, and here nobody's.
	mapfile -t groups < <(groups_left | sort -r)
	if ((${#groups[@]})); then
		[[ ${DAEMON_KILLED:-} == yes || -s $W/namespaces ]] || printf 'cgroup left: %s\n' "${groups[@]}" >>"$leaks"
		for dir in "${groups[@]}"; do
			rmdir "$dir" || echo "cgroup $dir cannot be removed" >>"$leaks"
		done
	fi
	mapfile -t pids < <(processes_of "$W/bin/")
	if ((${#pids[@]})); then
		echo "processes left: $(ps -o pid=,stat=,args= -p "$(IFS=, && echo "${pids[*]}")")" >>"$leaks"
		kill -KILL "${pids[@]}" 2>/dev/null
	fi
	if [[ ${DAEMON_KILLED:-} != yes ]] && grep -q " $W/[^ ]* " /proc/self/mountinfo; then
		grep " $W/[^ ]* " /proc/self/mountinfo | sed 's/^/mount left: /' >>"$leaks"
	fi
	free_mounts

	if [[ -s $leaks || -z ${BATS_TEST_COMPLETED:-} ]]; then
		echo "--- calls"
		tail -n 60 "$CALLS"
		echo "--- daemon log"
		tail -n 60 "$LOG"
	fi
	local rc=0
	if [[ -s $leaks ]]; then
		echo "--- leaks"
		cat "$leaks"
		rc=1
	fi
	rm -rf --one-file-system "$W" || rc=1
	return $rc
}

setup() { common_setup; }
teardown() { common_teardown; }

# connections: the FUSE connections of what is mounted under $W, as directories.
connections() {
	local dev
	while read -r dev; do
		dev=/sys/fs/fuse/connections/${dev#*:}
		[[ ! -d $dev ]] || echo "$dev"
	done < <(awk -v w="$W/" 'index($5, w) == 1 {print $3}' /proc/self/mountinfo)
}

nothing_waits() {
	local dir
	for dir in $(connections); do
		[[ $(<"$dir/waiting") == 0 ]] || return
	done
}

abort_mounts() {
	local dir
	for dir in $(connections); do
		echo 1 >"$dir/abort"
	done
}

# free_mounts unmounts what is mounted under $W, and aborts the connection
# first: a request that nobody will answer is an error then, and not a process in D.
free_mounts() {
	local target
	abort_mounts
	while read -r target; do
		umount -l "$target"
	done < <(awk -v w="$W/" 'index($5, w) == 1 {print $5}' /proc/self/mountinfo | tac)
}

# --- calls -------------------------------------------------------------------

# t CMD…: CMD under the time limit of T seconds (10 unless told).
t() { timeout -k 2 "${T:-10}" "$@"; }

# try CMD…: runs CMD under the limit, sets rc, out and err, logs the call. A
# call that runs into the limit fails the test.
try() {
	rc=0
	t "$@" </dev/null >"$W/out" 2>"$W/err" 3>&- 4>&- || rc=$?
	collect "$@"
}

# feed CMD…: as try, with the standard input of the caller.
feed() {
	rc=0
	t "$@" >"$W/out" 2>"$W/err" 3>&- 4>&- || rc=$?
	collect "$@"
}

# collect CMD…: sets out and err from the files, logs the call. Forks nothing:
# it runs thousands of times.
collect() {
	# bash drops NUL bytes, and warns; the files keep them.
	{ out=$(<"$W/out") err=$(<"$W/err"); } 2>/dev/null
	{
		printf '[%s]' "$rc"
		printf ' %q' "$@"
		printf '\n'
		[[ -z $out ]] || printf '  | %s\n' "${out:0:2000}"
		[[ -z $err ]] || printf '  ! %s\n' "${err:0:2000}"
	} >>"$CALLS"
	if ((rc == 124 || rc == 137)); then
		fail "hangs: $*"
	fi
}

# ok CMD…: must succeed.
ok() {
	try "$@"
	((rc == 0)) || fail "$* failed: status $rc: $err"
}

# refused ERRNO[,ERRNO…] CMD…: must fail, and say so in the words of one of
# the errnos.
refused() {
	local want=$1 e
	shift
	try "$@"
	((rc != 0)) || fail "$* should be refused with $want, but succeeded"
	for e in ${want//,/ }; do
		[[ $err != *"${ERRNO_TEXT[$e]}"* ]] || return 0
	done
	fail "$* should be refused with $want, said: $err"
}

# "${ECHO[@]}" PATH TEXT is a command that writes TEXT into PATH by a program
# that looks at every error, also that of close. The redirect is made by the
# shell that becomes echo.
ECHO=(sh -c 'exec /bin/echo "$2" >"$1"' sh)

# ctl BOX COMMAND: must be accepted and end well.
ctl() { ok "${ECHO[@]}" "$MNT/boxes/$1/ctl" "$2"; }

# ctl_refused ERRNO BOX COMMAND
ctl_refused() { refused "$1" "${ECHO[@]}" "$MNT/boxes/$2/ctl" "$3"; }

# bg NAME CMD…: runs CMD in the background, under a limit, with the signal
# dispositions of a foreground job. Its output goes to $W/NAME.out and .err;
# ${PID[NAME]} is the pid of CMD itself.
declare -gA PID=() JOB=()
bg() {
	local name=$1
	shift
	rm -f "$W/$name.pid"
	timeout -k 2 "${T:-60}" env --default-signal=INT,QUIT,TERM sh -c \
		'echo $$ >"$0.tmp" && mv "$0.tmp" "$0.pid" && exec "$@"' "$W/$name" "$@" \
		</dev/null >"$W/$name.out" 2>"$W/$name.err" 3>&- 4>&- &
	JOB[$name]=$!
	BG_PIDS+=("$!")
	await "$name to start" 5 test -s "$W/$name.pid"
	PID[$name]=$(<"$W/$name.pid")
	echo "[bg] $name: $*" >>"$CALLS"
}

# join NAME [SECONDS]: waits for a bg command to end, sets rc, out and err.
join() {
	local name=$1 limit=${2:-10}
	await "$name to end" "$limit" gone "${JOB[$name]}"
	rc=0
	wait "${JOB[$name]}" || rc=$?
	out=$(<"$W/$name.out") err=$(<"$W/$name.err")
	echo "[$rc] end of $name: $out $err" >>"$CALLS"
}

# blocked NAME…: the bg commands sleep in a FUSE request.
blocked() {
	local name
	for name; do
		[[ $(cat "/proc/${PID[$name]}/wchan" 2>/dev/null) == *request_wait_answer* ||
			$(cat "/proc/${PID[$name]}/wchan" 2>/dev/null) == *fuse* ]] || return 1
	done
}

await_blocked() { await "$* to block" 5 blocked "$@"; }

# kill_tree PID: SIGKILL for a bg command, its children first.
kill_tree() {
	local pid
	while read -r pid; do
		kill_tree "$pid"
	done < <(cat "/proc/$1/task/"*/children 2>/dev/null | tr ' ' '\n' | grep .)
	kill -KILL "$1" 2>/dev/null
}

# --- assertions and waiting --------------------------------------------------

fail() {
	echo "FAIL: $*" >&2
	return 1
}

# assert ACTUAL OP EXPECTED MESSAGE, where OP is =, !=, =~, !~, has (a
# substring) or one of test's numeric operators.
assert() {
	local actual=$1 op=$2 expected=$3 message=${4:-}
	case $op in
	=) [[ $actual = "$expected" ]] && return ;;
	!=) [[ $actual != "$expected" ]] && return ;;
	=~) [[ $actual =~ $expected ]] && return ;;
	!~) [[ ! $actual =~ $expected ]] && return ;;
	has) [[ $actual == *"$expected"* ]] && return ;;
	-eq | -ne | -lt | -le | -gt | -ge)
		[[ $actual =~ ^-?[0-9]+$ ]] && test "$actual" "$op" "$expected" && return
		;;
	*) fail "assert: unknown operator $op" ;;
	esac
	fail "$message: expected '$op' $(printf '%q' "$expected"), got $(printf '%q' "$actual")"
}

# now: milliseconds of the wall clock.
now() {
	local us=${EPOCHREALTIME/[.,]/}
	echo $((us / 1000))
}

# await_quietly SECONDS CMD…: polls until CMD succeeds.
await_quietly() {
	local end=$(($(now) + $1 * 1000))
	shift
	until "$@"; do
		(($(now) < end)) || return 1
		sleep 0.02
	done
}

# await WHAT SECONDS CMD…: as await_quietly, and fails the test.
await() {
	local what=$1 limit=$2
	shift 2
	await_quietly "$limit" "$@" || fail "gave up after $limit s: waiting for $what"
}

# --- the daemon --------------------------------------------------------------

# launch_daemon [ARG…]: starts boxlited, by the words of LAUNCH before it, and
# does not wait for it.
launch_daemon() {
	DAEMON_RC=''
	echo "[bg] boxlited $*" >>"$CALLS"
	"${LAUNCH[@]}" "$BOXLITED" --mount "$MNT" --state "$STATE" --shim "$SHIM" --log-level debug "$@" \
		</dev/null >>"$LOG" 2>&1 3>&- 4>&- &
	DAEMON=$!
}

# start_daemon [ARG…]: starts boxlited and waits until its mount answers.
start_daemon() {
	launch_daemon "$@"
	await_quietly 10 daemon_up_or_dead || fail "boxlited is not up after 10 s"
	daemon_alive || {
		reap_daemon
		tail -n 20 "$LOG" >&2
		fail "boxlited ended with status $DAEMON_RC"
	}
}

daemon_up_or_dead() {
	daemon_alive || return 0
	[[ $(mount_type) == fuse.boxlite ]] && t cat "$MNT/version" >/dev/null 2>&1
}

# mount_type: the type of what is mounted at $MNT, looked up without touching it.
mount_type() {
	awk -v m="$MNT" '$5 == m {for (i = 7; i <= NF; i++) if ($i == "-") type = $(i + 1)} END {print type}' \
		/proc/self/mountinfo
}

mount_count() { awk -v m="$MNT" '$5 == m {n++} END {print n + 0}' /proc/self/mountinfo; }

daemon_alive() { [[ -n ${DAEMON:-} && -z ${DAEMON_RC:-} ]] && ! gone "$DAEMON"; }

reap_daemon() {
	DAEMON_RC=0
	wait "$DAEMON" || DAEMON_RC=$?
	echo "[$DAEMON_RC] end of boxlited" >>"$CALLS"
}

# await_daemon [SECONDS]: waits for the end of the daemon, sets DAEMON_RC.
await_daemon() {
	await "boxlited to end" "${1:-10}" gone "$DAEMON"
	reap_daemon
}

# stop_daemon: asks the daemon to end, by the signal STOP_SIGNAL, and waits for it.
STOP_SIGNAL=TERM
stop_daemon() {
	kill -s "$STOP_SIGNAL" "$DAEMON"
	if ! await_quietly 10 gone "$DAEMON"; then
		kill -QUIT "$DAEMON"
		await_quietly 2 gone "$DAEMON"
		kill_daemon
		fail "boxlited did not end within 10 s of SIG$STOP_SIGNAL"
	fi
	reap_daemon
}

# kill_daemon: SIGKILL. The dead mount stays, and is no leak of the product. The
# notifier ends by itself, a moment later.
kill_daemon() {
	DAEMON_KILLED=yes
	local notifier
	notifier=$(notifier_of "$DAEMON")
	kill -KILL "$DAEMON" 2>/dev/null || :
	await "the killed boxlited to go" 5 gone "$DAEMON"
	reap_daemon
	[[ -z $notifier ]] || await "its notifier to go" 5 gone "$notifier"
}

# notifier_of PID: the pid of a daemon's notifier, if it has one.
notifier_of() {
	local pid
	{ cat "/proc/$1/task/"*/children 2>/dev/null || :; } | tr ' ' '\n' | while read -r pid; do
		[[ $(cat "/proc/$pid/comm" 2>/dev/null) != boxlite-notify ]] || echo "$pid"
	done
}

restart_daemon() {
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status of boxlited"
	start_daemon "$@"
}

daemon_fds() { find "/proc/$DAEMON/fd" -mindepth 1 2>/dev/null | wc -l; }
daemon_fds_at_most() { (($(daemon_fds) <= $1)); }

# watch_fds: the test fails when the daemon has more descriptors at its end,
# all boxes removed, than now. One box has lived and gone before the count is
# taken, so that what is opened once and for all does not count.
watch_fds() {
	box warmup 'command: ["true"]'
	ctl warmup start
	rd warmup/wait/stopped
	ok rmdir "$MNT/boxes/warmup"
	await "the descriptors to settle" 5 steady_fds
	FDS_BEFORE=$(daemon_fds)
}

steady_fds() {
	local n
	n=$(daemon_fds)
	sleep 0.05
	(($(daemon_fds) == n))
}

# --- images ------------------------------------------------------------------

# start_registry [FLAG…]: a registry on loopback, at $REG. It prints a line a request
# into $W/registry.out; join or the end of the test ends it.
start_registry() {
	cp -l "$BOXLITE_BIN/registry" "$W/bin/" 2>/dev/null || cp "$BOXLITE_BIN/registry" "$W/bin/"
	bg registry "$W/bin/registry" serve -listen 127.0.0.1:0 "$@"
	await "the registry's address" 5 grep -q ':' "$W/registry.out"
	REG=$(head -n 1 "$W/registry.out")
}

# push TARGET SOURCE… [FLAG…]: makes an image of directories and tars (a layer each),
# writes it to $REG/NAME:TAG, oci:/DIR:TAG or docker-archive:/FILE, and sets DIGEST. The
# flags are those of test/registry: --entrypoint, --cmd, --env, --user, --workdir, …
push() {
	T=60 ok "$BOXLITE_BIN/registry" push "$@"
	DIGEST=$out
}

# list_images: out is the names of the images, a line each.
list_images() {
	ok ls "$MNT/images"
	out=$(grep @ <<<"$out" || :)
}

# busybox_root DIR: a root file system of busybox-static with all its names.
busybox_root() {
	mkdir -p "$1"/{bin,etc,proc,sys,dev,tmp,root}
	chmod 1777 "$1/tmp"
	cp "$(type -P busybox)" "$1/bin/busybox"
	local name
	for name in $("$1/bin/busybox" --list); do
		[[ -e $1/bin/$name ]] || ln -s busybox "$1/bin/$name"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'root:x:0:' >"$1/etc/group"
}

# --- processes ---------------------------------------------------------------

# gone PID: no such process, or nothing of it but what its parent has to reap.
gone() {
	local state
	state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)
	[[ -z $state || $state == [ZX] ]]
}

# vanished PID: not even a zombie is left.
vanished() { [[ ! -e /proc/$1 ]]; }

# processes_of PREFIX: pids whose executable's path begins with PREFIX.
processes_of() { links_in_proc exe "$1*"; }

# links_in_proc NAME PATTERN: pids whose link NAME in /proc points to PATTERN.
# Processes that end meanwhile are no error.
links_in_proc() {
	find /proc/[0-9]*/"$1" -maxdepth 0 -lname "$2" 2>/dev/null | cut -d/ -f3 || :
}

# live_shims: the init of a container, which has the program of the shim, is none.
live_shims() { processes_of "$SHIM" | without_inits; }
no_shims() { [[ -z $(live_shims) ]]; }

# told_pids: what the daemon says the shims are.
told_pids() { t sh -c 'cat "$1"/*/pid 2>/dev/null' sh "$MNT/boxes" | grep -v '^-1$' || :; }

shims_as_told() {
	local told live
	told=$(told_pids | sort)
	live=$(live_shims | sort)
	[[ $told == "$live" ]]
}

zombies_of() {
	awk '$1 == "State:" {state = $2} $1 == "Pid:" {pid = $2} $1 == "PPid:" {
		if (state == "Z" && $2 == parent) print pid
	}' parent="$1" /proc/[0-9]*/status 2>/dev/null || :
}
no_zombies_of() { [[ -z $(zombies_of "$1") ]]; }

# hold_namespace PID: sets ns to the name of the pid namespace of a process, and
# keeps it open until the test ends: the number of a namespace that is gone is
# soon given to another.
hold_namespace() {
	local fd
	exec {fd}<"/proc/$1/ns/pid"
	ns=$(readlink "/proc/$$/fd/$fd")
}

# box_pids PID: all processes, zombies too, of the pid namespace of PID.
box_pids() {
	local ns
	ns=$(readlink "/proc/$1/ns/pid") || return 0
	ns_pids "$ns"
}

ns_pids() { links_in_proc ns/pid "${1/\[/\\[}"; }

# children_of PID: of all its threads, the oldest first. All of it has to be read: that of
# a box which forks is long.
children_of() { cat "/proc/$1/task/"*/children | tr ' ' '\n' | grep . | sort -n; }

# box_command SHIM: the host pid of the box's command: the oldest child of the shim, but for
# the init of a container.
box_command() { children_of "$1" | without_inits | sed -n 1p; }

# init_of SHIM: the host pid of a container's init.
init_of() { children_of "$1" | while read -r pid; do ! is_init "$pid" || echo "$pid"; done; }

without_inits() { while read -r pid; do is_init "$pid" || echo "$pid"; done; }

is_init() {
	local name=''
	{ read -r name <"/proc/$1/comm" || :; } 2>/dev/null
	[[ $name == boxlite-init ]]
}

# cgroup_of PID CONTROLLER: the directory of the cgroup of a process.
cgroup_of() {
	local root=/sys/fs/cgroup
	if [[ -e $root/cgroup.controllers ]]; then
		echo "$root$(sed -n 's/^0:://p' "/proc/$1/cgroup")"
	else
		echo "$root/$2$(sed -n "s/^[0-9]*:\([^:]*,\)\{0,1\}$2\(,[^:]*\)\{0,1\}://p" "/proc/$1/cgroup")"
	fi
}

# limit BOX CONTROLLER V1-FILE V2-FILE: the value of a limit in the kernel, as the
# cgroup of the box's command has it.
limit() {
	local dir
	dir=$(cgroup_of "$(box_command "$(pid_of "$1")")" "$2")
	if [[ -e $dir/cgroup.controllers ]]; then
		cat "$dir/$4"
	else
		cat "$dir/$3"
	fi
}

cpu_limit() { limit "$1" cpu cpu.cfs_quota_us cpu.max | sed 's/ .*//; s/^-1$/max/'; }
memory_limit() { limit "$1" memory memory.limit_in_bytes memory.max | sed 's/^9223372036854771712$/max/'; }
pids_limit() { limit "$1" pids pids.max pids.max; }

# stat_of BOX KEY
stat_of() { t cat "$MNT/boxes/$1/stats" | awk -v k="$2" '$1 == k {print $2}'; }
stat_is() { [[ $(stat_of "$1" "$2") == "$3" ]]; }

# frozen PID: the cgroup of the process is frozen.
frozen() {
	local dir
	dir=$(cgroup_of "$1" freezer)
	if [[ -e $dir/cgroup.events ]]; then
		grep -qx 'frozen 1' "$dir/cgroup.events"
	else
		[[ $(<"$dir/freezer.state") == FROZEN ]]
	fi
}

# groups_left: the cgroups of this test's boxes.
groups_left() {
	[[ -d $STATE ]] || return 0
	find /sys/fs/cgroup/ -mindepth 1 -type d -path "*/boxlite/$(stat -c '%D' "$STATE" | sed 's/^0*//')-$(printf %x "$(stat -c %i "$STATE")")*" 2>/dev/null || :
}

no_groups_of_boxes() { ! groups_left | grep -q /box-; }

# namespaces_empty FILE: nothing lives in the pid namespaces of FILE. Zombies do
# not count: the shim of a dead daemon is left to the first process to reap.
namespaces_empty() {
	local ns pid
	while read -r ns; do
		for pid in $(ns_pids "$ns"); do
			gone "$pid" || return 1
		done
	done <"$1"
}

# --- boxes -------------------------------------------------------------------

# configure BOX: writes standard input as its config, by a cat that has opened
# the file itself; sets rc, out, err.
configure() { feed sh -c 'exec cat >"$1"' sh "$MNT/boxes/$1/config.yaml"; }

# box BOX [CONFIG]: makes a box.
box() {
	ok mkdir "$MNT/boxes/$1"
	[[ $# -lt 2 ]] || {
		configure "$1" <<<"$2"
		((rc == 0)) || fail "config of $1 refused: $err; $(t cat "$MNT/boxes/$1/last_error")"
	}
}

# up BOX CONFIG: makes a box, starts it, waits until it runs.
up() {
	box "$@"
	ctl "$1" start
	rd "$1/wait/running"
	assert "$out" = running "wait/running of $1"
}

SLEEPER='command: [sleep, infinity]'

# script BOX [CONFIG…]: makes a box that runs standard input as a shell script;
# CONFIG are more lines of its config.
script() {
	local name=$1
	shift
	box "$name" "$(
		printf '%s\n' 'command:' '  - /bin/sh' '  - -c' '  - |'
		sed 's/^/    /'
		((!$#)) || printf '%s\n' "$@"
	)"
}

# run_script BOX [CONFIG…]: as script, runs it to its end; out is its log.
run_script() {
	script "$@"
	ctl "$1" start
	rd "$1/wait/stopped"
	rd "$1/log"
}

# rd PATH…: reads files below boxes/; out is their text.
rd() { ok cat "${@/#/$MNT/boxes/}"; }

# A command that ignores the signal of a stop, and says "ready" once it does.
STUBBORN="trap '' TERM; echo ready; while :; do sleep 0.05; done"

# stubborn BOX: a box that runs that.
stubborn() {
	script "$1" <<<"$STUBBORN"
	ctl "$1" start
	logs "$1" ready
}

# is BOX FILE TEXT
is() {
	rd "$1/$2"
	assert "$out" = "$3" "$1/$2"
}

has() {
	[[ $(t cat "$MNT/boxes/$1/$2") == "$3" ]]
}

# becomes BOX FILE TEXT: waits until the file reads so.
becomes() { await "$1/$2 to be $3" "${T:-10}" has "$1" "$2" "$3"; }

log_has() { (($(t cat "$MNT/boxes/$1/log" | grep -cF -- "$2") >= $3)); }

# logs BOX TEXT [N]: waits until TEXT is in N lines of the log. The log of a
# box goes on from run to run: in the second run a line is there twice.
logs() { await "$1 to log $2" "${T:-10}" log_has "$1" "$2" "${3:-1}"; }

pid_of() { t cat "$MNT/boxes/$1/pid"; }

remove_boxes() {
	local name
	for name in $(t ls "$MNT/boxes"); do
		t "${ECHO[@]}" "$MNT/boxes/$name/ctl" kill
		t rmdir "$MNT/boxes/$name"
	done
}

# python CODE [ARG…], python_fails…: for what a shell cannot say.
py() { ok /usr/bin/python3 -c "$@"; }

# json BOX KEY: one value of info.json, as Python writes it; "None" if absent.
json() {
	py 'import json, sys
v = json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."):
    v = v.get(k) if isinstance(v, dict) else None
print(v)' "$MNT/boxes/$1/info.json" "$2"
	echo "$out"
}

# as_nobody CMD…: a command line that runs CMD as another user.
NOBODY=(setpriv --reuid 65534 --regid 65534 --clear-groups)
