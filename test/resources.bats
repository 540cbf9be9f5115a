#!/usr/bin/env bats
#
# Limits and what counts them: resources, stats, the OOM killer, the freezer, and
# the cgroups that stand behind them.

load helpers
load containers

setup() { common_setup; }

# However a test ends, its groups with a parent of their own go.
teardown() {
	local rc=0 dir
	common_teardown || rc=$?
	for dir in "/sys/fs/cgroup/boxlite-test-$$"* /sys/fs/cgroup/*/"boxlite-test-$$"*; do
		[[ ! -d $dir ]] || find "$dir" -depth -type d -exec rmdir {} + || rc=$?
	done
	return "$rc"
}

# hog BOX MEBIBYTES CONFIG: a box whose command takes so much memory, says so, and
# waits.
hog() {
	make_hog
	box "$1" "$(printf 'command: [/usr/bin/python3, %s, "%s"]\n%s' "$W/hog.py" "$2" "$3")"
}

make_hog() {
	cat >"$W/hog.py" <<-'EOF'
		import signal, sys
		keep = [b"x" * (1 << 20) for _ in range(int(sys.argv[1]))]
		print("has", len(keep), flush=True)
		signal.pause()
	EOF
}

@test "resources are limits in the kernel, on the command and not on the shim" {
	start_daemon
	up x "$SLEEPER"$'\n''resources: {cpus: 1.5, memory: 64MiB, pids: 20}'
	assert "$(cpu_limit x)" = 150000 "cpu quota"
	assert "$(memory_limit x)" = $((64 << 20)) "memory limit"
	assert "$(pids_limit x)" = 20 "pids limit"
	local shim cmd c
	shim=$(pid_of x)
	cmd=$(box_command "$shim")
	for c in cpu memory pids freezer; do
		assert "$(cgroup_of "$shim" $c)" = "$(cgroup_of "$DAEMON" $c)" "the shim's group of $c"
		assert "$(cgroup_of "$cmd" $c)" =~ "/boxlite/.*/box-x$" "the command's group of $c"
	done
	json x config.resources.memory
	assert "$out" = $((64 << 20)) "memory in info.json"
	json x config.resources.cpus
	assert "$out" = 1.5 "cpus in info.json"
}

# scores BOX: the oom_score_adj of the daemon, and the shim and the command of a box.
scores() {
	local shim
	shim=$(pid_of "$1")
	cat "/proc/$DAEMON/oom_score_adj" "/proc/$shim/oom_score_adj" "/proc/$(box_command "$shim")/oom_score_adj" | xargs
}

# may_shield: whether the daemon can lower a score.
may_shield() { ((0x$(sed -n 's/^CapEff:\t//p' "/proc/$DAEMON/status") >> 24 & 1)); }

@test "the daemon and its shims are ranked before boxes for the OOM killer" {
	local RT box own
	make_rootfs
	own=$(</proc/self/oom_score_adj)
	start_daemon
	up h "$SLEEPER"
	for RT in crun runc; do
		up_box "$RT" 'echo up; sleep 1000'
		logs "$RT" up
	done
	for box in h crun runc; do
		if may_shield; then
			assert "$(scores $box)" = '-999 -1000 0' "scores with $box"
		else
			assert "$(scores $box)" = "$own $own $((own + 100))" "scores with $box"
		fi
	done
	# So is what it starts beside the command.
	ok mkdir "$MNT/boxes/h/exec/e" "$MNT/boxes/crun/exec/e"
	for box in h crun; do
		ok "${ECHO[@]}" "$MNT/boxes/$box/exec/e/cmd" 'cat /proc/self/oom_score_adj'
		rd "$box/exec/e/stdout"
		assert "$out" = "$(<"/proc/$(box_command "$(pid_of $box)")/oom_score_adj")" "score of an exec in $box"
	done
	may_shield || grep -q CAP_SYS_RESOURCE "$LOG" || fail "the daemon does not say that it cannot"
}

@test "a daemon that was started with a handicap for the OOM killer passes it on to boxes" {
	LAUNCH=(sh -c 'echo 300 >/proc/self/oom_score_adj; exec "$@"' sh)
	start_daemon
	up x "$SLEEPER"
	assert "$(scores x)" = "$(may_shield && echo '-999 -1000 300' || echo '300 300 400')" "scores"
}

# weights: of the groups below a parent, /boxlite-test-N in the cpu hierarchy, a line each.
weights() {
	local root=/sys/fs/cgroup/cpu file=cpu.shares
	[[ ! -e /sys/fs/cgroup/cgroup.controllers ]] || root=/sys/fs/cgroup file=cpu.weight
	find "$root/boxlite-test-$$" -name $file -printf '%d %p\n' | sort -n | cut -d' ' -f2 | xargs cat | xargs
}

@test "boxes have half the processor time of what is beside them, unless their parent was there" {
	local half=512 whole=1024 parent=/sys/fs/cgroup/cpu/boxlite-test-$$
	[[ ! -e /sys/fs/cgroup/cgroup.controllers ]] || half=50 whole=100 parent=/sys/fs/cgroup/boxlite-test-$$
	start_daemon --cgroup-parent "/boxlite-test-$$"
	up x "$SLEEPER"
	# Of the parent, the state directory's group, and the box's.
	assert "$(weights)" = "$half $whole $whole" "weights"
	ctl x kill
	stop_daemon
	[[ ! -e $parent ]] || fail "$parent is left"
	mkdir "$parent"
	start_daemon --cgroup-parent "/boxlite-test-$$"
	assert "$(weights)" = "$whole $half" "weights below a parent that was there"
}

@test "a box over its memory limit is killed, and said to be" {
	start_daemon
	hog x 200 'resources: {memory: 64MiB}'
	local pid
	ctl x start
	pid=$(pid_of x)
	rd x/wait/stopped
	assert "$out" = 137 "wait/stopped"
	is x status stopped
	is x exit_code 137
	rd x/last_error
	assert "$out" has "killed by the OOM killer" "last_error"
	await "the shim to go" 5 vanished "$pid"
	stat_is x oom_kills 1 || fail "stats: $(t cat "$MNT/boxes/x/stats")"
	rd x/events
	assert "$out" =~ " x oom oom_kills=1" "events"
	# It is counted for each run.
	configure x <<<"$SLEEPER"
	ctl x start
	stat_is x oom_kills 0 || fail "stats of the next run: $(t cat "$MNT/boxes/x/stats")"
	ctl x kill
	# And any other SIGKILL is told apart.
	script y <<<'kill -9 $$'
	ctl y start
	rd y/wait/stopped
	is y last_error "the command was killed by SIGKILL"
}

@test "an OOM kill of a child is an event while the box runs" {
	start_daemon
	make_hog
	script x 'resources: {memory: 64MiB}' <<<"/usr/bin/python3 $W/hog.py 200; echo child \$?; exec sleep infinity"
	ctl x start
	logs x "child 137"
	becomes_stat() { stat_is x oom_kills 1; }
	await "stats to count it" 5 becomes_stat
	event_there() { t cat "$MNT/boxes/x/events" | grep -q ' x oom oom_kills=1'; }
	await "the event" 5 event_there
	is x status running
	ctl x kill
	assert "$(t cat "$MNT/boxes/x/events" | grep -c ' oom ')" -eq 1 "oom events"
	is x last_error ok
}

@test "an OOM kill while no daemon runs is found by the next one" {
	start_daemon
	make_hog
	mkfifo "$W/go"
	script x 'resources: {memory: 64MiB}' <<<"echo ready; read line <$W/go; exec /usr/bin/python3 $W/hog.py 200"
	ctl x start
	logs x ready
	local pid
	pid=$(pid_of x)
	kill_daemon
	t sh -c 'echo go >"$1"' sh "$W/go"
	await "the box to end" 30 gone "$pid"
	start_daemon
	becomes x status stopped
	is x exit_code 137
	rd x/last_error
	assert "$out" has "killed by the OOM killer" "last_error"
	stat_is x oom_kills 1 || fail "stats: $(t cat "$MNT/boxes/x/stats")"
	ctl x kill
	await "the cgroup to go" 5 no_groups_of_boxes
}

@test "pids holds back what forks, and the box stays in command" {
	start_daemon
	cat >"$W/bomb.py" <<-'EOF'
		import os, signal
		while True:
		    try:
		        if os.fork() == 0: signal.pause()
		    except BlockingIOError: pass
	EOF
	box x "command: [/usr/bin/python3, $W/bomb.py]"$'\n''resources: {pids: 10}'
	ctl x start
	at_limit() { (($(stat_of x pids) == 10)); }
	await "the box to have 10 threads" 10 at_limit
	assert "$(box_pids "$(pid_of x)" | wc -l)" -le 11 "processes of the box, with the shim"
	ctl x kill
	is x status stopped
}

@test "cpus holds back what spins" {
	start_daemon
	script x 'resources: {cpus: 0.1}' <<<'while :; do :; done'
	ctl x start
	throttled() { [[ $(limit x cpu cpu.stat cpu.stat | awk '$1 == "nr_throttled" {print $2}') -ge 5 ]]; }
	await "it to be throttled" 10 throttled
	ctl x kill
}

@test "stats counts what the cgroup counts" {
	start_daemon
	hog x 32 'resources: {memory: 256MiB}'
	ctl x start
	logs x "has 32"
	local mem cpu
	mem=$(stat_of x memory_bytes)
	assert "$mem" -ge $((32 << 20)) "memory_bytes"
	assert "$mem" -le $((256 << 20)) "memory_bytes"
	assert "$(stat_of x pids)" -eq 1 "pids"
	cpu=$(stat_of x cpu_usec)
	assert "$cpu" -gt 1000 "cpu_usec"
	ctl x kill
	assert "$(stat_of x cpu_usec)" -ge "$cpu" "cpu_usec after the end"
	assert "$(stat_of x memory_bytes)" -eq 0 "memory_bytes after the end"
	assert "$(stat_of x pids)" -eq 0 "pids after the end"
	cpu=$(stat_of x cpu_usec)
	restart_daemon
	assert "$(stat_of x cpu_usec)" -eq "$cpu" "cpu_usec after a restart of the daemon"
}

@test "resources rewritten under a running box apply at once" {
	start_daemon
	up x "$SLEEPER"$'\n''resources: {memory: 64MiB}'
	local pid
	pid=$(pid_of x)
	assert "$(pids_limit x)" = max "pids limit"
	configure x <<<"$SLEEPER"$'\n''resources: {cpus: 0.5, memory: 128MiB, pids: 7}'
	assert "$(cpu_limit x) $(memory_limit x) $(pids_limit x)" = "50000 $((128 << 20)) 7" "limits"
	json x config_pending
	assert "$out" = False "config_pending"
	json x config.resources.pids
	assert "$out" = 7 "pids in info.json"
	configure x <<<"$SLEEPER"
	assert "$(cpu_limit x) $(memory_limit x) $(pids_limit x)" = "max max max" "no limits any more"
	is x pid "$pid"
	configure x <<<"$SLEEPER"$'\n''hostname: other'$'\n''resources: {pids: 9}'
	assert "$(pids_limit x)" = 9 "limit of a config that else has to wait"
	json x config_pending
	assert "$out" = True "config_pending"
	# They are those of the next run as well.
	ctl x restart
	assert "$(pids_limit x)" = 9 "limit of the next run"
}

@test "a limit that the kernel refuses is not committed" {
	start_daemon
	hog x 48 'resources: {memory: 128MiB, pids: 30}'
	ctl x start
	logs x "has 48"
	rd x/config.yaml
	local before=$out
	printf '%s\nresources: {memory: 8MiB, pids: 5}\n' "$(grep command <<<"$before")" >"$W/less"
	refused EIO,EINVAL,EBUSY cp "$W/less" "$MNT/boxes/x/config.yaml"
	rd x/last_error
	assert "$out" has resources "last_error"
	rd x/config.yaml
	assert "$out" = "$before" "config.yaml"
	assert "$(memory_limit x)" = $((128 << 20)) "memory limit"
	assert "$(pids_limit x)" = 30 "pids limit"
	is x status running
}

@test "the limits of a running box are those of its config, also when a daemon died between" {
	start_daemon
	up x "$SLEEPER"$'\n''resources: {pids: 30}'
	kill_daemon
	echo 12 >"$(cgroup_of "$(box_command "$(live_shims)")" pids)/pids.max"
	start_daemon
	assert "$(pids_limit x)" = 30 "limit after the restart"
}

@test "a host without a needed controller refuses the start, in a sentence" {
	LAUNCH=(unshare -m --propagation private sh -c 'umount -l /sys/fs/cgroup/memory 2>/dev/null || {
		# v2: a place without controllers
		umount -l /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup; }; exec "$@"' sh)
	start_hidden
	h sh -c 'mkdir "$1/x"; echo "command: [sleep, infinity]
resources: {memory: 64MiB}" >"$1/x/config.yaml"' sh "$MNT/boxes"
	h sh -c '/bin/echo start >"$1/x/ctl"' sh "$MNT/boxes" && fail "it starts without its limit"
	h cat "$MNT/boxes/x/status" "$MNT/boxes/x/last_error"
	assert "$out" =~ ^failed "status"
	assert "$out" =~ 'resources.memory needs the cgroup controller "memory"' "last_error"
	# Without the limit it runs, and stats are counted in another way.
	h sh -c 'echo "command: [sleep, infinity]" >"$1/x/config.yaml"; /bin/echo start >"$1/x/ctl"; cat "$1/x/stats"; /bin/echo kill >"$1/x/ctl"' sh "$MNT/boxes"
	assert "$out" =~ "pids 1" "stats"
	h rmdir "$MNT/boxes/x"
}

@test "a bound that nobody has asked for is none where there is no controller for it" {
	make_rootfs
	LAUNCH=(unshare -m --propagation private sh -c 'umount -l /sys/fs/cgroup/pids 2>/dev/null || {
		umount -l /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup; }; exec "$@"' sh)
	start_hidden
	# shellcheck disable=SC2153
	h sh -c 'mkdir "$1/x"; echo "command: [/bin/sleep, infinity]
rootfs: $2" >"$1/x/config.yaml"; /bin/echo start >"$1/x/ctl"; cat "$1/x/status" "$1/x/last_error"; grep -o "\"pids\": [^,]*" "$1/x/info.json"; /bin/echo kill >"$1/x/ctl"; rmdir "$1/x"' sh "$MNT/boxes" "$ROOT"
	assert "${lines[*]}" = 'running ok "pids": null' "status, last_error and pids in info.json"
}

@test "without a freezer, pause stops by signals" {
	LAUNCH=(unshare -m --propagation private sh -c 'umount -l /sys/fs/cgroup/freezer 2>/dev/null || {
		umount -l /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup; }; exec "$@"' sh)
	start_hidden
	h sh -c 'mkdir "$1/x"; echo "command: [sleep, infinity]" >"$1/x/config.yaml"; /bin/echo start >"$1/x/ctl"; /bin/echo pause >"$1/x/ctl"; cat "$1/x/status" "$1/x/pid"' sh "$MNT/boxes"
	assert "${lines[0]}" = paused "status"
	local cmd
	cmd=$(box_command "${lines[1]}")
	stopped() { grep -q '^State:.T' "/proc/$cmd/status"; }
	await "the command to be stopped" 5 stopped
	h sh -c '/bin/echo resume >"$1/x/ctl"; cat "$1/x/status"; /bin/echo pause >"$1/x/ctl"; /bin/echo kill >"$1/x/ctl"; cat "$1/x/exit_code"; rmdir "$1/x"' sh "$MNT/boxes"
	assert "${lines[*]}" = "running 137" "status and exit code"
}

# start_hidden: as start_daemon, for one whose mounts nobody else sees.
start_hidden() {
	launch_daemon
	await "the hidden daemon to be up" 10 hidden_up
}
hidden_up() { t nsenter -m -t "$DAEMON" cat "$MNT/version" >/dev/null 2>&1; }

# h CMD…: runs CMD in the mount namespace of the daemon; sets out and lines.
h() {
	try nsenter -m -t "$DAEMON" "$@"
	mapfile -t lines <<<"$out"
	return "$rc"
}

@test "a box that was frozen by hand can be killed, and one that is paused" {
	start_daemon
	local how pid cmd dir
	for how in hand pause; do
		script x <<<'sleep 1000 & exec sleep infinity'
		ctl x start
		pid=$(pid_of x)
		hold_namespace "$pid"
		cmd=$(box_command "$pid")
		if [[ $how == pause ]]; then
			ctl x pause
		else
			dir=$(cgroup_of "$cmd" freezer)
			if [[ -e $dir/cgroup.freeze ]]; then echo 1 >"$dir/cgroup.freeze"; else echo FROZEN >"$dir/freezer.state"; fi
		fi
		is_frozen() { frozen "$cmd"; }
		await "the box to be frozen" 5 is_frozen
		ctl x kill
		is x status stopped
		is x exit_code 137
		vanished "$pid" || fail "the shim is still there"
		[[ -z $(ns_pids "$ns") ]] || fail "processes are left: $(ns_pids "$ns")"
		ok rmdir "$MNT/boxes/x"
	done
}

@test "a box that has used up its share of the processor is paused, too" {
	start_daemon
	local i cmd
	up x 'command: [sh, -c, "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; echo ready; wait"]
resources: {cpus: 0.01}'
	T=30 logs x ready
	cmd=$(box_command "$(pid_of x)")
	for i in {1..5}; do
		ctl x pause
		is x status paused
		frozen "$cmd" || fail "said to be paused, and not frozen"
		# It is given time to stop, and no more than that.
		assert "$(cpu_quota "$cmd")" -eq 1000 "microseconds of the processor in 100,000"
		ctl x resume
		is x status running
	done
	ctl x kill
	is x exit_code 137
}

# cpu_quota PID: the quota of the cgroup of a process, in microseconds.
cpu_quota() {
	local dir
	dir=$(cgroup_of "$1" cpu)
	if [[ -e $dir/cpu.max ]]; then
		cut -d' ' -f1 "$dir/cpu.max"
	else
		cat "$dir/cpu.cfs_quota_us"
	fi
}

@test "a box that starts processes all the time is paused, too" {
	start_daemon
	up x 'command: [sh, -c, "for i in 1 2; do (while :; do /bin/true; done) & done; echo ready; wait"]'
	logs x ready
	# One process in twenty pauses was seen to slip through a freezer that is told once.
	T=60 py 'import os, sys
for i in range(100):
    for text, status in (b"pause", "paused"), (b"resume", "running"):
        fd = os.open(sys.argv[1] + "/ctl", os.O_WRONLY)
        os.write(fd, text)
        os.close(fd)
        got = open(sys.argv[1] + "/status").read().strip()
        assert got == status, got' "$MNT/boxes/x"
	ctl x kill
	is x exit_code 137
}

@test "the shim of a paused box that somebody kills takes the box with it" {
	start_daemon
	local sig pid
	for sig in KILL TERM; do
		up x "$SLEEPER"
		pid=$(pid_of x)
		hold_namespace "$pid"
		ctl x pause
		kill -s $sig "$pid"
		becomes x status stopped
		await "the shim to vanish" 5 vanished "$pid"
		[[ -z $(ns_pids "$ns") ]] || fail "processes are left"
		if [[ $sig == KILL ]]; then is x exit_code 137; else is x exit_code 143; fi
		ok rmdir "$MNT/boxes/x"
	done
}

@test "the shim of a paused box that is killed while no daemon runs is gone with the next one" {
	start_daemon
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	hold_namespace "$pid"
	ctl x pause
	kill_daemon
	kill -KILL "$pid"
	start_daemon
	becomes x status stopped
	namespace_empty() { [[ -z $(ns_pids "$ns") ]] || gone "$pid"; }
	await "nothing to be left" 5 namespace_empty
}

@test "a paused box is adopted as paused, and goes on" {
	start_daemon
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	ctl x pause
	kill_daemon
	start_daemon
	is x status paused
	is x pid "$pid"
	frozen "$(box_command "$pid")" || fail "it is not frozen any more"
	ctl x resume
	is x status running
	! frozen "$(box_command "$pid")" || fail "it is still frozen"
	ctl x pause
	kill -KILL "$pid"
	becomes x status stopped
}

@test "a paused box that dies with the daemon dies" {
	start_daemon
	up x "$SLEEPER"$'\n''detach: false'
	local pid
	pid=$(pid_of x)
	ctl x pause
	kill_daemon
	await "the shim to end" 5 gone "$pid"
}

@test "the log goes on and wait/log wakes when a paused box is resumed" {
	start_daemon
	script x <<<'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done'
	ctl x start
	logs x "line 3"
	ctl x pause
	local before
	before=$(t cat "$MNT/boxes/x/log" | wc -l)
	sleep 0.3 # that nothing is written can only be seen over a time
	assert "$(t cat "$MNT/boxes/x/log" | wc -l)" -eq "$before" "lines while it is paused"
	ctl x resume
	logs x "line $((before + 2))"
}

@test "cgroups go with the run, and what a crash left with the next daemon" {
	start_daemon
	up x "$SLEEPER"
	groups_left | grep -q '/box-x$' || fail "the box has no cgroup"
	ctl x kill
	await "the cgroup to go" 5 no_groups_of_boxes
	ok rmdir "$MNT/boxes/x"
	up y "$SLEEPER"
	local pid dir
	pid=$(pid_of y)
	kill_daemon
	kill -KILL "$pid"
	await "the box to end" 5 gone "$pid"
	groups_left | grep -q '/box-y$' || fail "nobody is there to remove it, and it is gone"
	# A box that nobody knows any more has left one too.
	mapfile -t dirs < <(groups_left | grep '/box-y$')
	for dir in "${dirs[@]}"; do mkdir -p "${dir%/*}/box-zombie/inner"; done
	start_daemon
	becomes y status stopped
	await "the cgroups to go" 5 no_groups_of_boxes
	stop_daemon
	[[ -z $(groups_left) ]] || fail "left by a daemon without boxes: $(groups_left)"
}

@test "a cgroup that a run left and somebody uses keeps the next from starting, not for ever" {
	start_daemon
	up x "$SLEEPER"
	local dir stranger
	dir=$(cgroup_of "$(box_command "$(pid_of x)")" pids)
	sleep 1000 &
	stranger=$!
	BG_PIDS+=("$stranger")
	echo "$stranger" >"$dir/cgroup.procs"
	ctl x kill
	is x status stopped
	kill -0 "$stranger" || fail "the stranger was killed"
	ctl_refused EIO x start
	rd x/last_error
	assert "$out" =~ "cgroup .*/box-x still has process $stranger" "last_error"
	kill "$stranger"
	await "the stranger to end" 5 gone "$stranger"
	wait "$stranger" || :
	ctl x start
	is x status running
}

@test "a read-only root keeps a box out of no cgroup" {
	start_daemon
	up x "$SLEEPER"$'\n''resources: {pids: 20}'$'\n''security: {readonly_rootfs: true}'
	assert "$(pids_limit x)" = 20 "pids limit"
	ctl x pause
	kill -TERM "$(pid_of x)"
	becomes x status stopped
}

@test "a stop that overtakes a pause finds nothing frozen" {
	start_daemon
	local i shim
	for i in 1 2 3 4 5; do
		script x 'stop: {timeout: 80s}' <<<'trap "sleep 0.3; exit 7" TERM; echo ready; while :; do sleep 0.1; done'
		ctl x start
		logs x ready
		shim=$(pid_of x)
		# The shim holds both requests, and answers the pause first.
		kill -STOP "$shim"
		bg pause "${ECHO[@]}" "$MNT/boxes/x/ctl" pause
		await_blocked pause
		bg stop "${ECHO[@]}" "$MNT/boxes/x/ctl" stop
		becomes x status stopping
		await_blocked stop
		kill -CONT "$shim"
		join stop 10
		assert "$rc" -eq 0 "stop: $err"
		is x exit_code 7
		join pause
		ok rmdir "$MNT/boxes/x"
	done
}
