#!/usr/bin/env bats
#
# Engine container: a command on files of its own, by an OCI runtime, with nothing of
# the host in sight. Each test that starts one does so with crun and with runc.

load helpers
load containers

setup() {
	common_setup
	make_rootfs
	start_daemon
}

@test "features names the OCI runtimes" {
	ok cat "$MNT/features"
	line engine.container:crun
	line engine.container:runc
}

lives() {
	up_box "$RT-a" 'echo "$(cat /note 2>/dev/null)"; echo first >/note; trap "exit 5" TERM; echo up; while :; do sleep 0.1; done'
	logs "$RT-a" up
	is "$RT-a" status running
	ok test -d "/proc/$(pid_of "$RT-a")"
	ctl "$RT-a" stop
	is "$RT-a" status stopped
	is "$RT-a" exit_code 5
	[[ ! -e $ROOT/note ]] || fail "the root that was given was changed"
	ctl "$RT-a" start
	logs "$RT-a" up 2
	rd "$RT-a/log"
	line first
	ctl "$RT-a" kill
	is "$RT-a" exit_code 137
	ok rmdir "$MNT/boxes/$RT-a"
	box "$RT-a" "rootfs: $ROOT"$'\n''command: [ls, /]'
	ctl "$RT-a" start
	rd "$RT-a/wait/exit"
	rd "$RT-a/log"
	no_line note
	ok rmdir "$MNT/boxes/$RT-a"
}
@test "a container lives as every box does; its changes stay until it is removed" { both lives; }

sees() {
	in_box "$RT-s" 'id -u; id -g; cat /proc/self/uid_map; hostname; echo "HOME=$HOME PATH=$PATH"; env | sort
ls /sys/class/net; ip link | grep -c UP; grep -E "^(NoNewPrivs|Seccomp|CapEff|CapBnd|CapAmb)" /proc/self/status; ps | grep -c boxlite
ls /run 2>/dev/null; cat /etc/hosts /etc/hostname; stat -c "hosts of %u" /etc/hosts; wc -l </proc/kcore; wc -c </proc/keys; touch /proc/sys/kernel/x; echo 1 >/proc/sys/kernel/panic
echo 1 >/sys/kernel/uevent_helper; cut -d: -f3 /proc/self/cgroup | sort -u; mount | grep -c boxlite; ls -ld /tmp; readlink /proc/self/ns/user' 'hostname: inside'
	line 0
	line inside
	line HOME=/root\ PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	line lo
	no_line '^eth'
	line $'NoNewPrivs:\t0'
	line $'Seccomp:\t2'
	line $'CapEff:\t00000000a80425fb' # Docker's
	line $'CapBnd:\t00000000a80425fb'
	line $'CapAmb:\t0000000000000000'
	line $'127.0.1.1\tinside'
	line 'hosts of 0'
	grep -q 'panic: Read-only file system\|panic: Permission denied' <<<"$out" || fail "/proc/sys can be written: $out"
	grep -q 'uevent_helper: ' <<<"$out" || fail "/sys can be written: $out"
	grep -Eq '^ +0 +[0-9]{9,} +65536$' <<<"$out" || fail "no map of ids: $out"
	no_line "^$(readlink /proc/self/ns/user)$"
	line /
	no_line box-
	grep -q '^drwxrwxrwt.* /tmp$' <<<"$out" || fail "no /tmp for all: $out"
	ok rmdir "$MNT/boxes/$RT-s"
}
@test "a container sees itself and nothing of the host" { both sees; }

profiles() {
	local caps='grep -E "^(NoNewPrivs|CapEff|CapBnd|CapAmb)" /proc/self/status | cut -f2 | xargs'
	in_box "$RT-1" "$caps" 'security: {profile: strict}'
	assert "$out" = '0000000020000420 0000000020000420 0000000000000000 1' "strict"
	json "$RT-1" config.security_profile
	assert "$out" = strict "security_profile in info.json"
	in_box "$RT-2" "$caps" 'security: {profile: strict, no_new_privileges: false, capabilities: {add: [CHOWN], drop: [KILL]}}'
	assert "$out" = '0000000020000401 0000000020000401 0000000000000000 0' "strict, changed"
	in_box "$RT-3" "$caps" 'security: {no_new_privileges: true, capabilities: {drop: [CHOWN, NET_RAW]}}'
	assert "$out" = '00000000a80405fa 00000000a80405fa 0000000000000000 1' "default, changed"
	json "$RT-3" config.no_new_privileges
	assert "$out" = True "no_new_privileges in info.json"
	ok rmdir "$MNT/boxes/$RT-1" "$MNT/boxes/$RT-2" "$MNT/boxes/$RT-3"
}
@test "a container has the capabilities of its profile, and what is added and dropped" {
	both profiles
	refused EINVAL sh -c 'mkdir "$1/boxes/h" && printf "%s\n" "command: [ls]" "security:" "  profile: strict" | cat >"$1/boxes/h/config.yaml"' sh "$MNT"
	rd h/last_error
	assert "$out" has "line 3: security.profile is for engine container only" "last_error"
}

apart() {
	up_box "$RT-1" 'echo x >/mine; echo up; sleep 1000'
	up_box "$RT-2" 'echo x >/mine; echo up; sleep 1000'
	logs "$RT-1" up
	logs "$RT-2" up
	local n first=()
	for n in 1 2; do
		json "$RT-$n" first_id
		first[n]=$out
		assert "$(stat -c %u "/proc/$(box_command "$(pid_of "$RT-$n")")")" = "$out" "owner of the command of $n"
		assert "$(find "$STATE/boxes/$RT-$n/changes" -name mine -printf '%U:%G')" = "$out:$out" "owner of a file of $n"
	done
	assert "$((first[1] - first[2]))" -ne 0 "the difference of their ids"
	ctl "$RT-1" kill
	ctl "$RT-1" start
	logs "$RT-1" up 2
	json "$RT-1" first_id
	assert "$out" = "${first[1]}" "first id after a restart"
	ctl "$RT-1" kill
	ctl "$RT-2" kill
	ok rmdir "$MNT/boxes/$RT-1" "$MNT/boxes/$RT-2"
}
@test "each box has ids of its own, and keeps them" { both apart; }

shot() {
	local runtime_state before shim
	runtime_state=$(ls -A /run/crun /run/runc 2>/dev/null || :)
	before=$(mounts_of_box)
	up_box "$RT-k" 'sleep 1000 & (sleep 1000 &) ; mkdir -p /sys/fs/cgroup/x 2>/dev/null; echo up; wait'
	logs "$RT-k" up
	shim=$(pid_of "$RT-k")
	hold_namespace "$shim"
	echo "$ns" >"$W/ns"
	ok kill -KILL "$shim"
	becomes "$RT-k" status stopped
	is "$RT-k" exit_code 137
	await "all of the box to be gone" 5 namespaces_empty "$W/ns"
	[[ ! -e /proc/$shim ]] || fail "the shim is still there"
	await "its cgroups to be gone" 5 no_groups_of_boxes
	assert "$(mounts_of_box)" = "$before" mounts
	assert "$(ls -A /run/crun /run/runc 2>/dev/null || :)" = "$runtime_state" "state of the runtimes"
	ok rmdir "$MNT/boxes/$RT-k"
	assert "$(find "$STATE/boxes" -mindepth 1 | wc -l)" -eq 0 "files of boxes"
}
# mounts_of_box: the mounts that this test's boxes have, or could have by mistake.
mounts_of_box() { grep -e "$W" -e ' /run/box' /proc/self/mountinfo || :; }
@test "kill -9 of the shim takes the container, its mounts, cgroups and the runtime's state" { both shot; }

@test "a stop of a command that does nothing about the signal needs no grace" {
	RT=crun
	local began init
	for init in true false; do
		up_box a 'echo up; sleep 1000' "init: $init"
		logs a up
		began=$SECONDS
		ctl a 'stop 60s'
		assert $((SECONDS - began)) -lt 20 "seconds of the stop, with init: $init"
		is a status stopped
		# Pid 1 would be spared the signal.
		is a exit_code "$([[ $init == true ]] && echo 143 || echo 137)"
		ok rmdir "$MNT/boxes/a"
	done
	# One that ignores it has its grace, and so has one whom the signal would not end anyway.
	up_box c 'echo up; sleep 1000' 'stop: {signal: SIGWINCH}'
	logs c up
	bg winch "${ECHO[@]}" "$MNT/boxes/c/ctl" 'stop 60s'
	becomes c status stopping
	await_quietly 1 has c status stopped && fail "no grace after a signal that ends nobody"
	ctl c kill
	up_box b 'trap "" TERM; echo up; while :; do sleep 0.1; done'
	logs b up
	bg stop "${ECHO[@]}" "$MNT/boxes/b/ctl" 'stop 60s'
	becomes b status stopping
	await_quietly 1 has b status stopped && fail "no grace"
	ctl b kill
	is b exit_code 137
}

# orphans BOX N: execs that leave a process which ends after them.
orphans() {
	local i
	for ((i = 0; i < $2; i++)); do
		ok mkdir "$MNT/boxes/$1/exec/e$i"
		ok "${ECHO[@]}" "$MNT/boxes/$1/exec/e$i/cmd" '{command: [sh, -c, "sleep 0.05 & sleep 0.1 &"]}'
		rd "$1/exec/e$i/wait/stopped"
		assert "$out" = 0 "code of exec $i"
		ok rmdir "$MNT/boxes/$1/exec/e$i"
	done
}
# states SHIM: of all processes in the pid namespace of a container, a letter each.
states() { for pid in $(box_pids "$(box_command "$1")"); do status_of "$pid"; done | sort | xargs; }
status_of() { awk '$1 == "State:" {print $2}' "/proc/$1/status" 2>/dev/null || :; }
states_are() { [[ $(states "$1") == "$2" ]]; }

reaped() {
	local shim
	up_box "$RT-z" 'echo up; exec sleep 1000' 'resources: {pids: 20}' \
		'health_check: {command: [sh, -c, "sleep 0.05 & sleep 0.1 &"], interval: 100ms, retries: 1, start_period: 0s}'
	becomes "$RT-z" health healthy
	shim=$(pid_of "$RT-z")
	orphans "$RT-z" 12
	is "$RT-z" health healthy
	configure "$RT-z" <<<"$(t cat "$MNT/boxes/$RT-z/config.yaml" | sed 's/^health_check:.*/health_check: {disabled: true}/')"
	ctl "$RT-z" restart
	shim=$(pid_of "$RT-z")
	logs "$RT-z" up 2
	orphans "$RT-z" 5
	# The init and the command, and no zombie.
	await "all else to be gone" 5 states_are "$shim" 'S S'
	ctl "$RT-z" kill
	ok rmdir "$MNT/boxes/$RT-z"
}
@test "what execs and probes leave in a container is reaped, whatever its command does" { both reaped; }

first() {
	in_box "$RT-1" 'echo "pid $$"; cat /proc/1/comm'
	line 'pid 2'
	line boxlite-init
	ok rmdir "$MNT/boxes/$RT-1"
	in_box "$RT-2" 'echo "pid $$"; ip link show lo | grep -c LOWER_UP' 'init: false'
	line 'pid 1'
	line 1
	ok rmdir "$MNT/boxes/$RT-2"
}
@test "pid 1 of a container is an init, or with init: false its command" {
	both first
	refused EINVAL sh -c 'mkdir "$1/boxes/h" && printf "%s\n" "command: [ls]" "init: false" | cat >"$1/boxes/h/config.yaml"' sh "$MNT"
	rd h/last_error
	assert "$out" has "init is for engine container only" "last_error"
}

killed_init() {
	up_box "$RT-d" 'echo up; exec sleep 1000'
	logs "$RT-d" up
	ok kill -KILL "$(init_of "$(pid_of "$RT-d")")"
	becomes "$RT-d" status stopped
	is "$RT-d" exit_code 137
	await "its cgroups to be gone" 5 no_groups_of_boxes
	ok rmdir "$MNT/boxes/$RT-d"
}
@test "a container ends with its init" { both killed_init; }

limits() {
	in_box "$RT-m" 'x=$(head -c 100000000 /dev/zero | tr "\0" x); echo survived' 'resources: {memory: 32MiB, pids: 20}'
	no_line survived
	has "$RT-m" stats "$(t cat "$MNT/boxes/$RT-m/stats")"
	assert "$(t cat "$MNT/boxes/$RT-m/stats" | awk '$1 == "oom_kills" {print $2}')" -ge 1 "OOM kills"
	rd "$RT-m/events"
	grep -q ' oom ' <<<"$out" || fail "no event oom: $out"
	ok rmdir "$MNT/boxes/$RT-m"
	up_box "$RT-p" 'n=0; while [ $n -lt 40 ]; do sleep 1000 & n=$((n + 1)); done; echo made; wait' 'resources: {pids: 20}'
	await "a fork to be refused" 10 log_has "$RT-p" "can't fork" 1
	assert "$(t cat "$MNT/boxes/$RT-p/stats" | awk '$1 == "pids" {print $2}')" -le 20 pids
	ctl "$RT-p" kill
	ok rmdir "$MNT/boxes/$RT-p"
	# What the runtime needs for itself does not count.
	in_box "$RT-q" 'echo ran' 'resources: {pids: 10, memory: 8MiB}'
	line ran
	ok rmdir "$MNT/boxes/$RT-q"
}
@test "limits hold and count, as for every box" { both limits; }

bounded() {
	local wanted name=$RT-b
	up_box "$name" 'echo up; sleep 1000'
	assert "$(pids_limit "$name")" = 4096 "limit of a container that asks for none"
	json "$name" config.resources.pids
	assert "$out" = 4096 "pids in info.json"
	assert "$(memory_limit "$name") $(cpu_limit "$name")" = "max max" "other limits"
	for wanted in unlimited:max max:max 30:30; do
		configure "$name" <<<"$(t cat "$MNT/boxes/$name/config.yaml" | sed '/^resources/d')"$'\n'"resources: {memory: 64MiB, pids: ${wanted%:*}}"
		assert "$(pids_limit "$name")" = "${wanted#*:}" "limit of pids: ${wanted%:*}"
	done
	json "$name" config.resources.pids
	assert "$out" = 30 "pids in info.json"
	configure "$name" <<<"$(t cat "$MNT/boxes/$name/config.yaml" | sed '/^resources/d')"$'\n'"resources: {memory: 64MiB}"
	assert "$(pids_limit "$name") $(memory_limit "$name")" = "4096 $((64 << 20))" "limits, without pids"
	configure "$name" <<<"$(t cat "$MNT/boxes/$name/config.yaml" | sed '/^resources/d')"$'\n'"resources: {pids: unlimited}"
	json "$name" config.resources.pids
	assert "$out" = None "pids in info.json, unlimited"
	# One that an older boxlite has started without a bound goes on without.
	kill_daemon
	sed -i '/^resources/d' "$STATE/boxes/$name/config.yaml"
	start_daemon
	assert "$(pids_limit "$name")" = max "limit after an upgrade"
	ctl "$name" restart
	assert "$(pids_limit "$name")" = 4096 "limit after the next start"
	ctl "$name" kill
	ok rmdir "$MNT/boxes/$name"
}
@test "a container has 4,096 threads, unless it says how many or unlimited" {
	both bounded
	up h "$SLEEPER"
	assert "$(pids_limit h)" = max "limit of a box of engine host"
}

grouped() {
	local enabled shim command c
	# The first box of all has the daemon enable them.
	up "$RT-w" "$SLEEPER"
	ctl "$RT-w" kill
	enabled=$(enabled_controllers)
	up_box "$RT-g" 'sleep 1000 & echo up; wait' 'resources: {cpus: 1.5, memory: 64MiB, pids: 20}' \
		'health_check: {command: [sleep, "1000"], interval: 100ms, timeout: 1000s}'
	logs "$RT-g" up
	ok mkdir "$MNT/boxes/$RT-g/exec/e"
	ok "${ECHO[@]}" "$MNT/boxes/$RT-g/exec/e/cmd" 'sleep 1000'
	becomes "$RT-g" exec/e/status running
	shim=$(pid_of "$RT-g")
	command=$(box_command "$shim")
	# With the init, which is in the shim's group.
	await "the probe to run" 10 has_processes "$command" 5
	assert "$(cgroup_of "$(init_of "$shim")" pids)" = "$(cgroup_of "$shim" pids)" "the group of pids of the init"
	for c in cpu memory pids freezer; do
		assert "$(cgroup_of "$shim" $c)" = "$(cgroup_of "$DAEMON" $c)" "the shim's group of $c"
		assert "$(for pid in $(box_pids "$command" | without_inits); do cgroup_of "$pid" $c; done | sort -u)" =~ ^[^$'\n']*"/boxlite/"[^/]*"/box-$RT-g$" "the groups of $c of the container's processes"
	done
	assert "$(cpu_limit "$RT-g") $(memory_limit "$RT-g") $(pids_limit "$RT-g")" = "150000 $((64 << 20)) 20" "limits"
	assert "$(stat_of "$RT-g" pids)" -eq 4 "pids in stats"
	assert "$(groups_left | grep -c "/box-$RT-g/")" -eq 0 "groups in the box's own"
	assert "$(find /sys/fs/cgroup -type d -name "*$RT-g*" ! -path "*/boxlite/*")" = "" "groups of the runtime's own"
	assert "$(enabled_controllers)" = "$enabled" "controllers enabled for children"
	configure "$RT-g" <<<"$(t cat "$MNT/boxes/$RT-g/config.yaml" | sed 's/^resources:.*/resources: {pids: 30}/')"
	assert "$(cpu_limit "$RT-g") $(memory_limit "$RT-g") $(pids_limit "$RT-g")" = "max max 30" "limits that were changed"
	ctl "$RT-g" pause
	for pid in $(box_pids "$command" | without_inits); do
		frozen "$pid" || fail "process $pid of a paused box is not frozen"
	done
	ctl "$RT-g" kill
	await "its cgroups to be gone" 5 no_groups_of_boxes
	assert "$(enabled_controllers)" = "$enabled" "controllers enabled for children, at the end"
	ok rmdir "$MNT/boxes/$RT-g" "$MNT/boxes/$RT-w"
}
@test "all that runs in a container is in the box's cgroup, which is the daemon's" { both grouped; }

has_processes() { (($(box_pids "$1" | wc -l) == $2)); }

# enabled_controllers: on v2, what the children of each group have that is the host's
# or the daemon's. Others change it where the boxes of this one use v1.
enabled_controllers() {
	[[ -e /sys/fs/cgroup/cgroup.controllers ]] || return 0
	find /sys/fs/cgroup/cgroup.subtree_control /sys/fs/cgroup/boxlite -name cgroup.subtree_control ! -path '*/box-*' | sort | xargs grep -H ''
}

own_group() {
	in_box "$RT-o" 'mkdir /m
mount -o remount,rw /sys/fs/cgroup
mount -t cgroup -o memory x /m || mount -t cgroup2 x /m
for d in /sys/fs/cgroup /m; do
	mkdir $d/y && echo "made $d/y"
	for f in memory.max memory.limit_in_bytes memory.high cgroup.freeze cgroup.max.descendants; do
		test ! -e $d/$f || ! echo 1000000000 >$d/$f || echo "set $d/$f"
	done
done
cat /m/memory.max /m/memory.limit_in_bytes' 'resources: {memory: 64MiB}' 'security: {capabilities: {add: [SYS_ADMIN, DAC_OVERRIDE]}}'
	line $((64 << 20))
	no_line '^(made|set) '
	ok rmdir "$MNT/boxes/$RT-o"
}
@test "a container that may mount sees its own cgroup, and changes nothing about it" { both own_group; }

frozen_box() {
	up_box "$RT-f" 'while :; do echo tick; sleep 0.02; done'
	logs "$RT-f" tick 3
	ctl "$RT-f" pause
	is "$RT-f" status paused
	local size
	size=$(t stat -c %s "$MNT/boxes/$RT-f/log")
	await_quietly 1 false || :
	assert "$(t stat -c %s "$MNT/boxes/$RT-f/log")" = "$size" "size of the log of a paused box"
	ctl "$RT-f" resume
	logs "$RT-f" tick 20
	ctl "$RT-f" pause
	ctl "$RT-f" kill
	is "$RT-f" status stopped
	ok rmdir "$MNT/boxes/$RT-f"
}
@test "a container is paused, resumed, and killed while paused" { both frozen_box; }

probed() {
	up_box "$RT-h" 'mkdir /www; echo fine >/www/health; httpd -f -p 127.0.0.1:8080 -h /www' 'health_check: {http: "http://localhost:8080/health", interval: 100ms, retries: 1}'
	becomes "$RT-h" health healthy
	up_box "$RT-t" 'while :; do nc -l -p 9 </dev/null; done' 'health_check: {tcp: 9, interval: 100ms, retries: 1}'
	becomes "$RT-t" health healthy
	ctl "$RT-h" kill
	ctl "$RT-t" kill
	ok rmdir "$MNT/boxes/$RT-h" "$MNT/boxes/$RT-t"
}
@test "health is asked for in the container's own network" { both probed; }

given() {
	mkdir -p "$W/data" "$W/ro/deep"
	echo theirs >"$W/data/theirs"
	echo file >"$W/one"
	chown 1000:1001 "$W/data" "$W/data/theirs"
	mount -t tmpfs tmpfs "$W/ro/deep"
	in_box "$RT-d" 'stat -c "%u:%g %n" /data /data/theirs; cat /one; echo new >/data/new && echo wrote; touch /ro/x; touch /ro/deep/x; echo end' \
		'mounts:' "  - {source: $W/data, target: /data}" "  - {source: $W/ro, target: /ro, readonly: true}" "  - {source: $W/one, target: /one}" \
		'user: "1000:1001"'
	umount "$W/ro/deep"
	line '1000:1001 /data'
	line '1000:1001 /data/theirs'
	line file
	line wrote
	grep -q '/ro/x: Read-only file system' <<<"$out" || fail "a read-only mount can be written: $out"
	grep -q '/ro/deep/x: Read-only file system' <<<"$out" || fail "what is mounted in a read-only mount can be written: $out"
	assert "$(stat -c %u:%g "$W/data/new")" = 1000:1001 "owner of what the box wrote"
	rm -r "$W/data" "$W/ro" "$W/one"
	ok rmdir "$MNT/boxes/$RT-d"
}
@test "mounts keep their owners, and read-only is read-only all the way down" { both given; }

as_given() {
	in_box "$RT-o" 'echo x >/kept; stat -c "%u:%g" /etc/passwd /kept' 'overlay: false'
	line 0:0
	assert "$(stat -c %u:%g "$ROOT/kept")" = 0:0 "owner of what the box wrote"
	rm "$ROOT/kept"
	ok rmdir "$MNT/boxes/$RT-o"
}
@test "overlay: false is the directory itself, with the owners that it has" { both as_given; }

who() {
	in_box "$RT-u" 'id; pwd; echo "$HOME"; touch /tmp/x && echo wrote; grep CapEff /proc/self/status; echo out >/dev/stdout' 'user: web' 'workdir: /srv' 'mounts: []'
	line 'uid=33(web) gid=34(web) groups=34(web),35(extra)'
	line /srv
	line $'CapEff:\t0000000000000000'
	line out
	ok rmdir "$MNT/boxes/$RT-u"
	in_box "$RT-v" 'id -u; grep CapEff /proc/self/status' 'user: "7:8"' 'security: {capabilities: {add: [NET_RAW], drop: [KILL]}}'
	line 7
	line $'CapEff:\t0000000000002000'
	ok rmdir "$MNT/boxes/$RT-v"
	in_box "$RT-w" 'grep CapEff /proc/self/status' 'security: {capabilities: {add: [CHOWN], drop: [ALL]}}'
	line $'CapEff:\t0000000000000001'
	ok rmdir "$MNT/boxes/$RT-w"
}
@test "users and capabilities are those of the container" { both who; }

read_only() {
	in_box "$RT-r" 'touch /x; touch /tmp/x /run/x /dev/shm/x && echo wrote' 'security: {readonly_rootfs: true}'
	grep -q '/x: Read-only file system' <<<"$out" || fail "the root can be written: $out"
	line wrote
	ok rmdir "$MNT/boxes/$RT-r"
}
@test "readonly_rootfs leaves /tmp, /run and /dev/shm" { both read_only; }

host_net() {
	in_box "$RT-n" 'readlink /proc/self/ns/net; ls /sys/fs/cgroup' 'network: host'
	line "$(readlink /proc/self/ns/net)"
	no_line '^(memory|pids|devices)$'
	ok rmdir "$MNT/boxes/$RT-n"
}
@test "network: host is the host's" { both host_net; }

@test "crun compiles a profile once, and a box never gets another's filter" {
	RT=crun
	local probe='unshare -U true && echo namespace made; unshare -m true && echo mounts apart; grep Seccomp: /proc/self/status; echo up; sleep 1000'
	local n
	for n in a b; do # b has more capabilities, and so another profile
		up_box "$n" "$probe" "security: {capabilities: {add: [$([[ $n == a ]] || echo SYS_ADMIN)]}}"
		logs "$n" up
		assert "$(grep -c seccomp_bpf_data "/proc/$(pid_of "$n")/root/run/box/config.json")" -eq 0 "filters that $n was given at first"
		ctl "$n" kill
	done
	for n in a b; do
		ctl "$n" start
		logs "$n" up 2
		assert "$(grep -c seccomp_bpf_data "/proc/$(pid_of "$n")/root/run/box/config.json")" -eq 1 "filters that $n was given at last"
		rd "$n/log"
		assert "$(grep -cx $'Seccomp:\t2' <<<"$out")" -eq 2 "starts of $n with a filter"
		ctl "$n" kill
	done
	rd a/log
	no_line '^(namespace|mounts)'
	rd b/log
	assert "$(grep -cx 'mounts apart' <<<"$out")" -eq 2 "starts of b with the filter of its capabilities"
}

devices() {
	in_box "$RT-e" 'cat /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; mknod /n c 1 3; ls -l /n; ls /dev | xargs; cat /dev/vda' 'security: {capabilities: {add: [MKNOD, SYS_ADMIN]}}'
	line 4
	grep -q "mknod: /n: Operation not permitted\|mknod: /n: Permission denied" <<<"$out" || fail "a device was made: $out"
	grep -q "can't open '/dev/vda'" <<<"$out" || fail "a disk of the host: $out"
	no_line '(kmsg|mem|fuse|kvm)'
	ok rmdir "$MNT/boxes/$RT-e"
}
@test "a container has a few devices, and makes none" { both devices; }

adopted() {
	up_box "$RT-g" 'echo up; while :; do echo tick; sleep 0.05; done'
	logs "$RT-g" up
	local shim
	shim=$(pid_of "$RT-g")
	kill_daemon
	start_daemon
	is "$RT-g" status running
	assert "$(pid_of "$RT-g")" = "$shim" "the shim's pid"
	ctl "$RT-g" stop
	is "$RT-g" status stopped
	await "its cgroups to be gone" 5 no_groups_of_boxes
	ok rmdir "$MNT/boxes/$RT-g"
}
@test "the next daemon adopts a container" { both adopted; }

# fails BOX PATTERN CONFIG: a start that must fail, and why.
fails() {
	box "$1" "$3"
	ctl_refused EIO "$1" start
	is "$1" status failed
	rd "$1/last_error"
	[[ $out =~ $2 ]] || fail "last_error of $1: $out"
	ok rmdir "$MNT/boxes/$1"
}

wrong() {
	fails "$RT-a" '/nowhere.*no such file' $'command: [ls]\nrootfs: /nowhere\nruntime: '"$RT"
	fails "$RT-b" 'no-such.*(not found|no such file)' $'command: [no-such]\nrootfs: '"$ROOT"$'\nruntime: '"$RT"
	fails "$RT-c" 'user "nobody".*container' $'command: [ls]\nuser: nobody\nrootfs: '"$ROOT"$'\nruntime: '"$RT"
	fails "$RT-d" 'no directory' $'command: [ls]\nrootfs: '"$ROOT/bin/busybox"$'\nruntime: '"$RT"
	fails "$RT-e" 'which no box may see' $'command: [ls]\nrootfs: '"$W"$'\nruntime: '"$RT"
	fails "$RT-f" 'mount /nowhere on /x' $'command: [ls]\nmounts: [{source: /nowhere, target: /x}]\nrootfs: '"$ROOT"$'\nruntime: '"$RT"
	await "cgroups to be gone" 5 no_groups_of_boxes
}
@test "a container that cannot start says why" { both wrong; }

@test "without an OCI runtime a start says what to install" {
	stop_daemon
	mkdir "$W/path"
	ln -s "$(command -v fusermount3)" "$W/path/"
	LAUNCH=(env "PATH=$W/path")
	start_daemon
	fails a 'install.*crun' $'command: [ls]\nrootfs: '"$ROOT"
	fails b 'runc is not on.*install runc' $'command: [ls]\nruntime: runc\nrootfs: '"$ROOT"
	ok cat "$MNT/features"
	no_line engine.container
}

keeps_ids() {
	up_box "$RT-i" 'echo up; sleep 1000'
	logs "$RT-i" up
	json "$RT-i" first_id
	local kept=$out
	kill_daemon
	echo broken >"$STATE/boxes/$RT-i/state.json"
	start_daemon
	is "$RT-i" status running
	json "$RT-i" first_id
	assert "$out" = "$kept" "first id after a broken state.json"
	ctl "$RT-i" kill
	ok rmdir "$MNT/boxes/$RT-i"
}
@test "a container that runs keeps its ids when state.json is found broken" { both keeps_ids; }

in_a_row() {
	script "$RT-n" "rootfs: $ROOT" "runtime: $RT" <<<'n=$(($(cat /n 2>/dev/null || echo 0) + 1)); echo $n >/n; echo "up $n"; sleep 1000'
	local n
	for n in 1 2 3 4 5 6 7 8; do
		ctl "$RT-n" start
		logs "$RT-n" "up $n"
		ctl "$RT-n" kill
	done
	ok rmdir "$MNT/boxes/$RT-n"
}
@test "kills and starts in a row lose nothing of a container, and leave nothing in the daemon" {
	watch_fds
	both in_a_row
}
