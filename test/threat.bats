#!/usr/bin/env bats
#
# What a hostile box, a hostile root and a hostile user of the host cannot do. The
# page boxlite-security(7) names these tests. Where it can be, an attack is also made where
# nothing guards against it, to know that it is one.

load helpers
load hostile
load containers

shopt -s extglob

setup_file() {
	build threat
	gcc -O2 -Wall -Wextra -Werror -nostdlib -static-pie -fPIE -ffreestanding -fno-stack-protector \
		-o "$BATS_FILE_TMPDIR/threat-ld" "$BATS_TEST_DIRNAME/threat-ld.c"
}

setup() {
	common_setup
	THREAT=$W/threat
	cp "$BATS_FILE_TMPDIR/threat" "$THREAT"
	make_rootfs
	cp "$THREAT" "$ROOT/bin/threat"
	start_daemon
}

# failed BOX: its start has failed.
failed() {
	try "${ECHO[@]}" "$MNT/boxes/$1/ctl" start
	((rc != 0)) || fail "$1 was started"
	is "$1" status failed
}

drop() {
	local name
	for name; do
		ctl "$name" kill
		ok rmdir "$MNT/boxes/$name"
	done
}

# However a test ends: the next must not find what it has done to the host.
teardown() {
	chown 0:0 /dev/null
	chmod 0666 /dev/null
	common_teardown
}

# both TEST: as in other suites, and each profile with one of them.
both() {
	local profile
	for RT in crun runc; do
		profile=$([[ $RT == crun ]] && echo default || echo strict)
		echo "# runtime $RT, profile $profile"
		PROFILE=$profile "$1"
	done
}

# --- out of the box ----------------------------------------------------------

own_runtime() {
	local runtime sum n=0 command
	runtime=$(command -v "$RT")
	# shellcheck disable=SC2153
	sum=$(sha256sum "$runtime" "$SHIM")
	# The image says that it wants to run what runs it, and brings a loader for that.
	ROOT=$W/$RT-image
	cp -a "$W/root" "$ROOT"
	mkdir -p "$ROOT/lib64" "$ROOT/lib"
	cp "$BATS_FILE_TMPDIR/threat-ld" "$ROOT/lib64/ld-linux-x86-64.so.2"
	cp "$BATS_FILE_TMPDIR/threat-ld" "$ROOT/lib/ld-linux-aarch64.so.1"
	ln -s /proc/self/exe "$ROOT/bin/itself"
	for command in /proc/self/exe /bin/itself; do
		box "$RT-$((++n))" "$(printf '%s\n' "command: [$command]" "rootfs: $ROOT" "runtime: $RT")"
		ctl "$RT-$n" start
		rd "$RT-$n/wait/stopped"
		rd "$RT-$n/log"
		line loaded
		no_line overwritten
		no_line '^(write|reopen|chmod) ok'
	done
	in_box "$RT-3" 'for p in /proc/[0-9]*; do readlink $p/exe; done; cd /proc; for p in [0-9]*; do threat overwrite /proc/$p/exe; done'
	no_line 'crun|runc|shim'
	no_line overwritten
	assert "$(sha256sum "$runtime" "$SHIM")" = "$sum" "the runtime and the shim"
	drop "$RT-1" "$RT-2" "$RT-3"
	ROOT=$W/root
}
@test "a box cannot overwrite its runtime or the shim" {
	# The attack is one where it is let: a copy, in a box of engine host.
	cp "$(command -v crun)" "$W/victim"
	box h "command: [$THREAT, overwrite, $W/victim]"
	ctl h start
	rd h/wait/stopped
	rd h/log
	line overwritten
	both own_runtime
}

descriptors() {
	in_box "$RT-1" 'exec threat fds'
	assert "${out//:\[+([0-9])]/}" = $'fd 0 /dev/null\nfd 1 pipe\nfd 2 pipe' "descriptors"
	drop "$RT-1"
	# Working directories that would be the host's, if the runtime had left one open
	# (CVE-2024-21626).
	local fd started=0
	for fd in 3 5 6 7 8 9; do
		script "$RT-$fd" "rootfs: $ROOT" "runtime: $RT" "workdir: /proc/self/fd/$fd" \
			<<<"cat $W/secret ../../../../../../../..$W/secret ../../../../../../../../../$W/secret; echo ran"
		try "${ECHO[@]}" "$MNT/boxes/$RT-$fd/ctl" start
		if ((rc == 0)); then
			rd "$RT-$fd/wait/stopped"
			rd "$RT-$fd/log"
			line ran
			no_line precious
			started=1
		fi
		drop "$RT-$fd"
	done
}
@test "a box has descriptors 0 to 2, and no other as its working directory" {
	echo precious >"$W/secret"
	both descriptors
}

calls() {
	in_box "$RT-1" 'exec threat calls'
	assert "$(grep -c . <<<"$out")" -ge 33 "attempts"
	# In its own network, and in its own root.
	local let=$'chroot ok\npacket-socket ok\nraw-socket ok'
	# shellcheck disable=SC2153
	[[ $PROFILE != strict ]] || let=''
	assert "$(grep ' ok$' <<<"$out" | sort)" = "$let" "what is let through"
	no_line '^(mount|umount|unshare-user|clone-user|keyctl|setns) E(INVAL|NOENT|FAULT)'
	drop "$RT-1"
}
@test "a box cannot mount, make namespaces, nor call what no box needs" {
	# Much of it is let to a root process that nothing guards; its mounts are its own.
	box h "$(printf '%s\n' "command: [unshare, -m, $THREAT, calls]" "workdir: $W")"
	ctl h start
	rd h/wait/stopped
	rd h/log
	local name
	for name in mount bind umount remount fsopen open_tree mount_setattr clone-user clone-mount keyctl add_key perf_event_open mknod packet-socket unshare-user unshare-mount; do
		line "$name ok"
	done
	both calls
}

admin() {
	in_box "$RT-1" 'mkdir -p /g /m; id -u; 
mount -o remount,bind,rw /etc/hosts; { echo x >/etc/hosts; } 2>/dev/null && echo filled; umount /etc/hosts; cat /etc/hosts | head -c 9
mount -o remount,bind,dev,suid /given; dd if=/given/kmsg of=/m/k bs=8192 count=1 2>/dev/null && echo read-kmsg; mknod /node b 254 0 && echo made-node
for c in memory pids devices freezer cpu cpuset blkio systemd; do
	o=$c; [ $c = systemd ] && o=none,name=systemd
	mount -t cgroup -o $o none /g || continue
	for f in cgroup.procs tasks release_agent notify_on_release devices.allow memory.limit_in_bytes pids.max cpuset.cpus; do
		[ -e /g/$f ] && { echo $$ >/g/$f; } 2>/dev/null && echo "wrote $c $f"; done
	mkdir /g/sub 2>/dev/null && echo "made group in $c"
	umount /g
done
mount -t cgroup2 none /g && { { echo $$ >/g/cgroup.procs; } 2>/dev/null && echo "wrote v2"; mkdir /g/sub 2>/dev/null && echo "made group in v2"; umount /g; }
umount /proc/sys /proc/sysrq-trigger /proc/kcore /proc/keys 2>/dev/null
{ echo x >/proc/sys/kernel/core_pattern; } 2>/dev/null && echo "wrote core_pattern"; { echo h >/proc/sysrq-trigger; } 2>/dev/null && echo "wrote sysrq"; head -c 1 /proc/kcore >/dev/null 2>&1 && echo "read kcore"
echo end' 'security: {capabilities: {add: [SYS_ADMIN, MKNOD, DAC_OVERRIDE, CHOWN, SETUID, SYS_CHROOT]}}' "mounts: [{source: $W/given, target: /given}]"
	line end
	no_line '^(filled|read|made-node|wrote|made group)'
	drop "$RT-1"
}
@test "a box that was given SYS_ADMIN cannot write into the shim's files, nor the host's cgroups, devices and sysctls" {
	mkdir "$W/given"
	dead_nodes "$W/given"
	both admin
}

others() {
	up_box "$RT-1" 'echo up; sleep 1000'
	logs "$RT-1" up
	up_box "$RT-2" 'echo up; sleep 1000'
	logs "$RT-2" up
	local shim other
	shim=$(pid_of "$RT-1")
	other=$(box_command "$(pid_of "$RT-2")")
	in_box "$RT-3" "kill -9 -1; threat hunt 70000; for p in $shim $other $DAEMON 1; do kill -9 \$p; kill -STOP \$p; done; ls -d /proc/[0-9]* | wc -l; echo end"
	# Its own shell and its init are all that it has seen.
	line 'seen 2 traced 1'
	line end
	is "$RT-1" status running
	is "$RT-1" pid "$shim"
	is "$RT-2" status running
	assert "$(awk '/^State/ {print $2}' "/proc/$other/status")" = S "state of a process of another box"
	[[ $(readlink "/proc/$shim/ns/pid") != $(readlink "/proc/$(box_command "$shim")/ns/pid") ]] || fail "the shim is in the box's pid namespace"
	drop "$RT-1" "$RT-2" "$RT-3"
}
@test "a box cannot see, signal or trace the shim, the daemon or another box" {
	# Without a pid namespace it is seen.
	local out
	out=$("$THREAT" hunt 0)
	ok kill -0 "$DAEMON"
	both others
}

# init: what a box has of its pid 1, which is in the shim's mount namespace.
init() {
	up_box "$RT-1" "threat hunt 1; kill -9 1; kill -STOP 1; for f in exe root cwd ns/mnt ns/net fd/0; do readlink /proc/1/\$f && echo \"had \$f\"; done
for f in environ maps mem io stack auxv root/etc/shadow; do head -c 1 /proc/1/\$f >/dev/null && echo \"had \$f\"; done
echo 1 >/proc/1/oom_score_adj && echo \"had oom_score_adj\"
echo \"comm \$(cat /proc/1/comm)\"; grep -E '^(Uid|Cap|State)' /proc/1/status; cat /proc/1/mountinfo /proc/1/mounts /proc/1/mountstats; cat /proc/1/net/unix; head -n 3 /proc/1/net/dev; echo end; sleep 1000" \
		'security: {capabilities: {add: [SYS_PTRACE, SYS_ADMIN, DAC_OVERRIDE, DAC_READ_SEARCH, SYS_RESOURCE, KILL]}}' 2>/dev/null
	logs "$RT-1" end
	rd "$RT-1/log"
	line 'seen 1 traced 0'
	line 'comm boxlite-init'
	line $'State:\tS (sleeping)'
	line $'Uid:\t0\t0\t0\t0'
	line $'CapPrm:\t0000000000000000'
	no_line '^had'
	no_line "$NAME"
	no_line "$STATE|$MNT|cgroup|/sys"
	assert "$(grep -cE '^ +lo:' <<<"$out")" -eq 1 "loopback interfaces in its network"
	# To the host: it is nothing but the code that it sleeps in.
	local init
	init=$(init_of "$(pid_of "$RT-1")")
	assert "$(find "/proc/$init/fd" -mindepth 1 | wc -l)" -eq 0 "descriptors of the init"
	assert "$(awk '$1 ~ /^(VmSize|RssAnon|VmData|VmStk):$/ {print $1 $2}' "/proc/$init/status" | xargs)" = 'VmSize:128 RssAnon:0 VmData:0 VmStk:0' "memory of the init in KiB"
	drop "$RT-1"
}
@test "a box cannot signal its init or look into it, also if it was given SYS_PTRACE" {
	NAME=boxlite-threat-$$
	bg listener /usr/bin/python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind("\0" + sys.argv[1])
s.listen()
print("up", flush=True)
time.sleep(300)' "$NAME"
	await "the listener" 5 grep -q up "$W/listener.out"
	# The host's own network has it.
	grep -q "@$NAME" /proc/1/net/unix || fail "the listener is not to be seen on the host"
	both init
}

sockets() {
	local shim
	up_box "$RT-1" 'echo up; sleep 1000'
	logs "$RT-1" up
	shim=$STATE/boxes/$RT-1/shim.sock
	[[ -S $shim ]] || fail "no socket at $shim"
	in_box "$RT-2" "threat dial @$NAME; threat dial $shim; threat dial $W/path.sock; find / -xdev -type s; ls /run 2>/dev/null; echo end"
	line end
	no_line 'ok|^/[^b]'
	# With the host's network an abstract socket is in reach: boxlite-security(7) says so.
	in_box "$RT-3" "threat dial @$NAME; threat dial $shim" 'network: host'
	line 'connect ok'
	assert "$(grep -c ok <<<"$out")" -eq 1 "sockets in reach with the host's network"
	drop "$RT-1" "$RT-2" "$RT-3"
}
@test "a box cannot reach a control socket, nor with network none an abstract socket of the host" {
	NAME=boxlite-threat-$$
	bg listener /usr/bin/python3 -c 'import socket, sys, time
s = [socket.socket(socket.AF_UNIX) for _ in range(2)]
s[0].bind("\0" + sys.argv[1])
s[1].bind(sys.argv[2])
[x.listen() for x in s]
print("up", flush=True)
time.sleep(300)' "$NAME" "$W/path.sock"
	await "the listener" 5 grep -q up "$W/listener.out"
	ok "$THREAT" dial "@$NAME"
	line 'connect ok'
	both sockets
}

machine() {
	in_box "$RT-1" 'w() { { echo "$2" >"$1"; } 2>/dev/null && echo "wrote $1"; }
for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/panic /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward /proc/sys/fs/file-max /proc/sys/user/max_inotify_instances /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/power/state /sys/kernel/mm/ksm/run /sys/module/kernel/parameters/panic /sys/block/*/queue/scheduler /sys/class/net/lo/mtu; do w $f 1; done
for f in /proc/kcore /proc/kmsg /proc/keys /proc/timer_list /proc/kpagecount /dev/mem /dev/kmsg /dev/port /dev/fuse /dev/vda /dev/sda; do [ -z "$(head -c 4 $f 2>/dev/null | tr "\0" x)" ] || echo "read $f"; done
dmesg; threat limits; echo end'
	line end
	no_line '^(wrote|read|/)'
	no_line '^(nofile|nice|realtime|oom_score_adj|immutable) ok'
	drop "$RT-1"
}
@test "a box cannot write to /proc/sys, /sys or sysrq, read the kernel's memory, or raise its own limits" {
	# The same are files that root may write.
	[[ -w /proc/sys/kernel/core_pattern && -w /proc/sys/vm/drop_caches && -w /sys/class/net/lo/mtu && -r /proc/kpagecount ]] || fail "the host's own root may not"
	both machine
}

# dead_nodes DIR: makes two device files that the host's root can read: one that the
# cgroup of a box refuses, and one that it lets through.
dead_nodes() {
	mknod -m 0666 "$1/kmsg" c 1 11
	mknod -m 0666 "$1/zero" c 1 5
	ok dd if="$1/kmsg" of=/dev/null bs=8192 count=1
	ok head -c 1 "$1/zero"
}

nodes() {
	local over
	for over in true false; do
		in_box "$RT-$over" 'dd if=/kmsg of=/k bs=8192 count=1 2>/dev/null && echo read-kmsg; head -c 1 /zero >/dev/null && echo read-zero; echo end' "overlay: $over"
		line end
		no_line '^read'
		drop "$RT-$over"
	done
}
@test "device files of a root are dead" {
	dead_nodes "$ROOT"
	both nodes
}

set_uid() {
	local strict='no_new_privileges: true'
	[[ $PROFILE != strict ]] || strict='profile: strict'
	in_box "$RT-1" 'suid euid' 'user: web' "security: {$strict}"
	assert "$out" = 'euid 33' "effective user of a set-uid program"
	# By default it is, as in Docker, one of the container's root, who is nobody on the host.
	up_box "$RT-2" 'suid euid; suid hold' 'user: web' 'security: {no_new_privileges: false}'
	logs "$RT-2" held
	rd "$RT-2/log"
	line 'euid 0'
	local pid first
	json "$RT-2" first_id
	first=$out
	pid=$(box_pids "$(box_command "$(pid_of "$RT-2")")" | while read -r pid; do [[ $(readlink "/proc/$pid/exe") != */suid ]] || echo "$pid"; done)
	assert "$(awk '/^Uid/ {print $3}' "/proc/$pid/status")" = "$first" "effective user of a set-uid program, on the host"
	# It is bounded by what the box's root has.
	assert "$(awk '/^CapPrm/ {print $2}' "/proc/$pid/status")" = "$(awk '/^CapBnd/ {print $2}' "/proc/$(box_command "$(pid_of "$RT-2")")/status")" "capabilities of it"
	drop "$RT-1" "$RT-2"
}
@test "set-uid programs of a root give no more than its root has, and nothing without new privileges" {
	cp "$THREAT" "$ROOT/bin/suid"
	chmod 4755 "$ROOT/bin/suid"
	both set_uid
}

# execs BOX N: execs that are soon over.
execs() {
	local i
	for ((i = 0; i < $2; i++)); do
		ok mkdir "$MNT/boxes/$1/exec/e$i"
		ok sh -c 'echo "sleep 0.1" >"$1"' sh "$MNT/boxes/$1/exec/e$i/cmd"
		rd "$1/exec/e$i/wait/stopped"
	done
}

joined() {
	up_box "$RT-1" 'threat watch 6; sleep 1000' 'security: {capabilities: {add: [SYS_PTRACE, DAC_OVERRIDE]}}'
	execs "$RT-1" 5
	T=20 logs "$RT-1" watched
	rd "$RT-1/log"
	assert "$(grep -o 'pid [0-9]*' <<<"$out" | cut -c5-)" -gt 2 "processes that were watched"
	no_line '^(exe|descriptor|overwritten|root)'
	drop "$RT-1"
}
@test "a box gets hold of nothing by those who join it for an exec" {
	script h <<<"$THREAT watch 4; sleep 1000"
	ctl h start
	execs h 2
	T=20 logs h watched
	rd h/log
	grep -q '^exe .*sleep$' <<<"$out" || fail "the watcher sees nothing: $out"
	both joined
}

stopped_one() {
	local pid
	for pid in $(box_pids "$cmd"); do ! in_state "$pid" T || return 0; done
	return 1
}

frozen_joiners() {
	up_box "$RT-1" 'threat freeze 60; sleep 1000'
	hold "$RT-1"
	local i took
	for i in 1 2 3 4 5 6; do
		ok mkdir "$MNT/boxes/$RT-1/exec/e$i"
		# The close waits for the exec to have begun. Some may get through.
		bg "$RT-e$i" sh -c 'exec /bin/echo sleep 1000 >"$1"' sh "$MNT/boxes/$RT-1/exec/e$i/cmd"
	done
	await "a process to be stopped" 10 stopped_one
	for i in 1 2 3 4 5 6; do
		timed ok "${ECHO[@]}" "$MNT/boxes/$RT-1/exec/e$i/ctl" kill
		assert "$took" -lt 3000 "milliseconds of the kill of an exec"
		join "$RT-e$i"
	done
	is "$RT-1" status running
	timed ctl "$RT-1" kill
	assert "$took" -lt 3000 "milliseconds of the kill"
	nothing_left
	ok rmdir "$MNT/boxes/$RT-1"
}
@test "a box that stops those who join it holds up its own execs, which can be killed" { both frozen_joiners; }

# --- against the shim and the host -------------------------------------------

wells() {
	up_box "$RT-1" 'threat inotify & sleep 1000'
	logs "$RT-1" instances
	py 'import ctypes, os
fd = ctypes.CDLL(None, use_errno=True).inotify_init()
print(fd >= 0 or os.strerror(ctypes.get_errno()))'
	assert "$out" = True "an inotify instance of the host's root"
	drop "$RT-1"
}
@test "a box that takes all inotify instances it can get takes none of the host's root's" {
	# runc needs CAP_SYS_RESOURCE for it, see runtime/container.go.
	RT=crun wells
	(($(awk '/^CapEff/ {print $2}' /proc/self/status | sed 's/^/0x/') >> 24 & 1)) || return 0
	RT=runc wells
}

own_null() {
	up_box "$RT-1" 'echo up; sleep 1000' 'user: "12:12"'
	logs "$RT-1" up
	local shim
	shim=$(pid_of "$RT-1")
	[[ ! /proc/$shim/fd/0 -ef /dev/null ]] || fail "what the runtime got for its stdin is the host's /dev/null"
	# crun does give it away.
	json "$RT-1" first_id
	[[ $RT == runc ]] || assert "$(stat -Lc %u "/proc/$shim/fd/0")" -ge "$out" "owner of the stdin of crun"
	drop "$RT-1"
}
@test "a box does not get the host's /dev/null for its own" { both own_null; }

log_pipe() {
	up_box "$RT-1" 'threat pipes || echo "failed $?"; echo ready; sleep 1000'
	# What it does to the shared description of /dev/null is not done to the shim's.
	T=30 logs "$RT-1" ready
	rd "$RT-1/log"
	line piped
	no_line '^failed'
	local shim spent
	shim=$(pid_of "$RT-1")
	spent=$(awk '{print $14 + $15}' "/proc/$shim/stat")
	is "$RT-1" health healthy
	await_quietly 1 false || :
	assert $(($(awk '{print $14 + $15}' "/proc/$shim/stat") - spent)) -le 20 "ticks of the shim in a second"
	drop "$RT-1"
}
@test "what a box does to its end of the log's pipe does nothing to the shim" { both log_pipe; }

@test "a box that fills the disk and spoils its stdin does not stop its log, and can be killed" {
	# Of engine host, where the shim's stdin is the box's own.
	stop_daemon
	mkdir "$W/disk"
	mount -t tmpfs -o size=4m tmpfs "$W/disk"
	STATE=$W/disk/state
	start_daemon
	script h 'log: {max_size: 1MiB}' <<<"$THREAT pipes >/dev/null 2>&1; cat /dev/zero >$W/disk/fill; yes | head -c 1000000; yes | head -c 1000000 >&2; rm $W/disk/fill; while :; do echo lived; sleep 0.2; done"
	ctl h start
	T=30 logs h lived
	rd h/log
	grep -q 'bytes of log lost: no space left' <<<"$out" || fail "nothing was lost: the disk was not full"
	drop h
	stop_daemon
	umount "$W/disk"
}

flood() {
	script "$RT-1" "rootfs: $ROOT" "runtime: $RT" 'log: {max_size: 64KiB}' <<<'yes | head -c 20000000; echo end; sleep 1000'
	ctl "$RT-1" start
	T=40 logs "$RT-1" end
	assert "$(cat "$STATE/boxes/$RT-1"/log.* | wc -c)" -le 131072 "bytes of log on disk"
	drop "$RT-1"
}
@test "a box that floods its log fills two files of it" { both flood; }

depths() {
	in_box "$RT-1" 'cd /srv && threat deep 5000 && echo deep' 'rlimits: {nofile: 128}'
	line deep
	ok rmdir "$MNT/boxes/$RT-1"
	T=60 await "the trash to be emptied" 60 sh -c '[ -z "$(ls -A "$1")" ]' sh "$STATE/trash"
}
@test "a box whose directories are deeper than the daemon has descriptors is removed like another" {
	stop_daemon
	LAUNCH=(prlimit --nofile=256:256)
	start_daemon
	both depths
	! grep -q 'too many open files' "$LOG" || fail "the daemon ran out of descriptors"
}

thousand() {
	up_box "$RT-1" 'n=0; while [ $n -lt 1000 ]; do sleep 1000 & n=$((n + 1)); done; trap "" TERM; (trap "" TERM; echo up; kill -STOP -1); sleep 1000'
	T=60 logs "$RT-1" up
	hold "$RT-1"
	assert "$(ns_pids "$(readlink "/proc/$(box_command "$shim")/ns/pid")" | wc -l)" -ge 1000 processes
	hold_namespace "$(box_command "$shim")"
	timed ctl "$RT-1" kill
	assert "$took" -lt 5000 "milliseconds of the kill"
	vanished "$shim" || fail "the shim is left"
	[[ -z $(ns_pids "$ns") ]] || fail "processes are left"
	ok rmdir "$MNT/boxes/$RT-1"
}
@test "a box of 1,000 stopped processes that ignore signals is killed whole" { both thousand; }

probes() {
	local mode shim rss
	for mode in silent head body; do
		up_box "$RT-$mode" "exec threat serve 8080 $mode" 'health_check: {http: "http://127.0.0.1:8080/", interval: 50ms, timeout: 300ms, retries: 2, start_period: 0}'
		logs "$RT-$mode" serves
	done
	becomes "$RT-silent" health unhealthy
	becomes "$RT-head" health unhealthy
	becomes "$RT-body" health healthy # its status was 200; the body is not waited for
	for mode in silent head body; do
		shim=$(pid_of "$RT-$mode")
		rss=$(awk '/^VmRSS/ {print $2}' "/proc/$shim/status")
		assert "$rss" -lt 20000 "KiB of the shim of $mode"
		json "$RT-$mode" probe.output
		assert "${#out}" -le 1100 "bytes of output of $mode"
		timed ctl "$RT-$mode" kill
		assert "$took" -lt 2000 "milliseconds of the kill of $mode"
		ok rmdir "$MNT/boxes/$RT-$mode"
	done
}
@test "a server that never answers, or never ends its answer, holds up nobody" { both probes; }

probe_inside() {
	script "$RT-1" "rootfs: $ROOT" "runtime: $RT" 'health_check: {command: [/bin/sh, -c, "touch '"$W"'/canary/$$; id -u"], interval: 50ms}' <<<'mkdir -p '"$W"'/canary; echo up; sleep 1000'
	ctl "$RT-1" start
	becomes "$RT-1" health healthy
	drop "$RT-1"
	[[ -z $(ls -A "$W/canary") ]] || fail "a health command ran on the host"
}
@test "a health command of a box does not run on the host" {
	mkdir -m 0777 "$W/canary"
	both probe_inside
}

# --- hostile roots -----------------------------------------------------------

# hostile_root WORDS CONFIG…: makes a root, does WORDS in it, runs a box of it. The
# start may fail; the host must be as it was, and its files not shown.
hostile_root() {
	local words=$1 before after
	shift
	rm -rf "$W/hostile"
	cp -a "$W/root" "$W/hostile"
	ROOT=$W/hostile
	(cd "$ROOT" && eval "$words") || fail "$words"
	before=$(cd "$W" && find canary world | sort && sha256sum canary/*)
	script "$RT-r" "rootfs: $ROOT" "runtime: $RT" "$@" <<<'cat /etc/file /mnt/file /proc/file /sys/file /dev/file 2>/dev/null; echo "ran $(id -u)"; sleep 1000'
	T=20 try "${ECHO[@]}" "$MNT/boxes/$RT-r/ctl" start
	if ((rc == 0)); then
		logs "$RT-r" ran
	fi
	rd "$RT-r/log"
	no_line precious
	T=5 ctl "$RT-r" kill
	ok rmdir "$MNT/boxes/$RT-r"
	after=$(cd "$W" && find canary world | sort && sha256sum canary/*)
	assert "$after" = "$before" "the host after: $words"
}

roots() {
	local up=../../../../../../../../../../..
	local name to
	for name in dev proc sys; do
		hostile_root "rm -r $name; ln -s $W/world $name"
		hostile_root "rm -r $name; ln -s $up$W/world $name" 'overlay: false'
		hostile_root "rm -r $name; mkfifo $name"
	done
	hostile_root "rm -r dev; ln -s /srv dev"
	hostile_root "rm -r proc; ln -s . proc"
	hostile_root "rm -r etc; ln -s $W/world etc"
	hostile_root "rm -r etc; ln -s $up$W/canary etc; ln -s $W/world tmp"
	hostile_root "ln -s $up$W/world/hosts etc/hosts; ln -s $W/canary/file etc/hostname"
	hostile_root 'mkfifo etc/hosts; mkdir etc/hostname'
	mkdir -p "$W/given"
	for to in "$up$W/world" /proc/self/root/srv "/proc/1/cwd$up$W/world"; do
		hostile_root "ln -s $to mnt" "mounts: [{source: $W/given, target: /mnt/deep/er}]"
	done
	hostile_root "mkdir mnt; ln -s $up$W/world mnt/deep" "mounts: [{source: $W/given, target: /mnt/deep/er}]" 'overlay: false'
	hostile_root "ln -s $W/world mnt" "mounts: [{source: $W/given, target: /mnt}]"
	hostile_root "ln -s $W/world tmp; ln -s $up$W/world run; ln -s /srv var" 'security: {readonly_rootfs: true}'
	[[ -z $(find "$W/world" "$W/given" -mindepth 1) ]] || fail "something was made on the host: $(find "$W/world" "$W/given" -mindepth 1 -ls)"
}
hostile_setup() {
	mkdir "$W/canary" "$W/world"
	chmod 1777 "$W/world"
	echo precious >"$W/canary/file"
}
@test "links in a root lead to nothing of the host: crun" {
	hostile_setup
	RT=crun roots
}
@test "links in a root lead to nothing of the host: runc" {
	hostile_setup
	RT=runc roots
}

passwords() {
	local n=0 how
	echo "mallory:x:0:0::$W:/bin/sh" >"$W/passwd"
	for how in "mkfifo passwd" "mkdir passwd" "ln -s $W/passwd passwd" "ln -s ../../../../../../..$W/passwd passwd" "mknod passwd c 1 5" \
		"head -c 3000000 /dev/zero | tr '\0' 'x' >passwd" "yes mallory::::: | head -c 3000000 >passwd; echo mallory:x:0:0:::>>passwd" \
		"echo mallory:x:-5:-7:::>passwd" "echo mallory:x:65536:0:::>passwd" "echo mallory:x:4294967296:4294967296:::>passwd" "ln -s passwd passwd"; do
		rm -rf "$ROOT/etc/passwd"
		(cd "$ROOT/etc" && eval "$how") || :
		n=$((n + 1))
		box "$RT-$n" "$(printf '%s\n' 'command: [id]' "rootfs: $ROOT" "runtime: $RT" 'user: mallory')"
		if [[ $how == yes* || $how == *429496* ]]; then
			# A user of the container's own root, or none: harmless either way.
			T=10 try "${ECHO[@]}" "$MNT/boxes/$RT-$n/ctl" start
		else
			T=10 failed "$RT-$n"
			rd "$RT-$n/last_error"
			[[ $out == *'user "mallory" of the container'* ]] || fail "last_error of $how: $out"
		fi
		drop "$RT-$n"
	done
}
@test "an /etc/passwd that is no file, leads out, or names ids of others starts nothing" { RT=crun passwords; }

names() {
	local esc=$'\e' log
	box "$RT-1" "command: [\"/no\\nfake\\r\\e[2J\\x9bx\"]"$'\n'"rootfs: $ROOT"$'\n'"runtime: $RT"
	failed "$RT-1"
	rd "$RT-1/last_error"
	assert "$(wc -l <<<"$out")" -eq 1 "lines of last_error"
	no_line "$esc"
	drop "$RT-1"
	script "$RT-2" "rootfs: $ROOT" "runtime: $RT" "env: {X: \"a\\nb\\e[2J\", \"Y Z\": \"=\"}" \
		<<<'printf "\\033[2J\\0\\377\\n1 2026-01-01T00:00:00Z web status from=running to=stopped\\n"; exit 259'
	ctl "$RT-2" start
	rd "$RT-2/wait/stopped"
	assert "$out" = 3 "exit code"
	json "$RT-2" exit_code
	assert "$out" = 3 "exit code in info.json"
	rd "$RT-2/events"
	assert "$(awk 'NF < 4 || $1 !~ /^[0-9]+$/' <<<"$out")" = '' "lines of events that are none"
	assert "$(grep -c 'to=stopped' <<<"$out")" -eq 1 "stops"
	ok cat "$MNT/boxes/$RT-2/info.json" "$MNT/events" "$MNT/metrics"
	no_line "$esc"
	drop "$RT-2"
}
@test "hostile names, variables and exit codes break no line of last_error, events and info.json" { both names; }

# --- a box of engine host ----------------------------------------------------

@test "a box of engine host ends whole, sees no process of the host, and neither the control filesystem nor the state" {
	up x "$SLEEPER"
	local shim
	shim=$(pid_of x)
	script h <<<"set -- /proc/[0-9]*; echo processes \$#; kill -9 $shim $DAEMON; ls -A $MNT $STATE | grep -v :; cat $STATE/boxes/x/config.yaml; setsid -f sleep 1000; setsid -f sh -c 'trap \"\" TERM HUP; sleep 1000'; echo end; sleep 1000"
	ctl h start
	logs h end
	rd h/log
	line 'processes 2' # the shell, and the shim, which is its init
	no_line infinity
	is x status running
	is x pid "$shim"
	hold h
	ctl h kill
	nothing_left
	# And it is no sandbox: boxlite-security(7) says so.
	box r "command: [touch, $W/touched]"
	ctl r start
	rd r/wait/stopped
	[[ -e $W/touched ]] || fail "engine host has become a sandbox: say so in boxlite-security(7)"
}

# --- a user of the host ------------------------------------------------------

USER_1=(setpriv --reuid 1000 --regid 1000 --clear-groups)

delegate() {
	up x "$SLEEPER"
	up y "$(printf '%s\n' "$SLEEPER" 'env: {TOKEN: s3cr3t}')"
	ok chown 1000:1000 "$MNT/boxes/x" "$MNT/boxes/x/ctl"
}

@test "who was given a box drives it, and can change nothing else" {
	delegate
	local b=$MNT/boxes/x
	ok "${USER_1[@]}" "${ECHO[@]}" "$b/ctl" restart
	is x status running
	# Neither what runs, nor what others run, nor what there is.
	refused EACCES "${USER_1[@]}" "${ECHO[@]}" "$b/config.yaml" 'command: [id]'
	refused EACCES "${USER_1[@]}" cat "$b/config.yaml"
	refused EACCES "${USER_1[@]}" cat "$MNT/boxes/y/config.yaml"
	refused EACCES "${USER_1[@]}" "${ECHO[@]}" "$MNT/boxes/y/ctl" kill
	refused EPERM "${USER_1[@]}" chown 1000 "$b/config.yaml"
	refused EPERM "${USER_1[@]}" chmod 0666 "$b/config.yaml"
	refused EPERM "${USER_1[@]}" chown 1000 "$b/status"
	refused EPERM "${USER_1[@]}" chmod 0666 "$b/status"
	refused EPERM "${USER_1[@]}" chown 0 "$b/ctl"
	refused EPERM "${USER_1[@]}" chown 1000 "$MNT/boxes/y/ctl"
	refused EACCES "${USER_1[@]}" mkdir "$MNT/boxes/z"
	refused EACCES "${USER_1[@]}" rmdir "$b"
	refused EACCES "${USER_1[@]}" rmdir "$MNT/boxes/y"
	# No file comes or goes by another name.
	refused EPERM,EACCES "${USER_1[@]}" ln -s /etc/passwd "$b/link"
	refused EPERM,EACCES "${USER_1[@]}" ln "$b/ctl" "$b/hard"
	refused EPERM,EACCES "${USER_1[@]}" mv "$b/ctl" "$b/config.yaml"
	refused EPERM,EACCES "${USER_1[@]}" mv "$b/config.yaml" "$b/old"
	refused EPERM,EACCES "${USER_1[@]}" rm -f "$b/config.yaml"
	refused EPERM,EACCES "${USER_1[@]}" sh -c ': >"$1/new"' sh "$b"
	refused EPERM,EACCES "${USER_1[@]}" mknod "$b/node" c 1 3
	# A set-uid or device bit means nothing on the mount.
	ok "${USER_1[@]}" chmod 04200 "$b/ctl"
	ok findmnt -no OPTIONS "$MNT"
	[[ $out == *nosuid* && $out == *nodev* ]] || fail "options of the mount: $out"
	rd y/config.yaml
	line "$SLEEPER"
}

@test "who was given a box gets neither at the state directory nor at the shim" {
	delegate
	local shim
	shim=$(pid_of x)
	ok stat -c '%a %u' "$STATE"
	assert "$out" = '700 0' "mode of the state directory"
	refused EACCES "${USER_1[@]}" ls "$STATE"
	refused EACCES "${USER_1[@]}" cat "$STATE/boxes/x/config.yaml"
	refused EPERM "${USER_1[@]}" kill -9 "$shim"
	refused EPERM "${USER_1[@]}" kill -STOP "$DAEMON"
	ok "${USER_1[@]}" "$THREAT" dial "$STATE/boxes/x/shim.sock"
	no_line ok
	ok "$THREAT" dial "$STATE/boxes/x/shim.sock"
	line 'connect ok'
	refused EACCES "${USER_1[@]}" ls "/proc/$shim/root/"
	refused EACCES "${USER_1[@]}" cat "/proc/$shim/environ"
	refused EACCES,EPERM "${USER_1[@]}" nsenter -t "$shim" -p -m true
	is x pid "$shim"
}

# bats test_tags=alone
@test "who was given a box cannot hold up others" {
	delegate
	bg flood "${USER_1[@]}" /usr/bin/python3 -c 'import os, sys, time
box = sys.argv[1]
open_, errors = [], set()
for i in range(1000):
    for name in "exit", "stopped", "event", "log":
        open_.append(os.open(f"{box}/wait/{name}", os.O_RDONLY))
for size in 4097, 1 << 20:
    fd = os.open(box + "/ctl", os.O_WRONLY)
    try:
        os.write(fd, b"#" * size)
        errors.add("written")
    except OSError as e:
        errors.add(os.strerror(e.errno))
    os.close(fd)
print(*errors, flush=True)
while True:
    for c in "pause", "resume", "signal CONT", "nonsense":
        fd = os.open(box + "/ctl", os.O_WRONLY)
        try:
            os.write(fd, c.encode())
        except OSError:
            pass
        try:
            os.close(fd)
        except OSError:
            pass' "$MNT/boxes/x"
	T=30 await "the flood" 30 grep -q . "$W/flood.out"
	assert "$(<"$W/flood.out")" = 'Argument list too long' "a huge write to ctl"
	local usual ms
	life
	assert "$ms" -lt 8000 "milliseconds of the life of another box"
	is y status running
	kill_tree "${JOB[flood]}"
	join flood || :
}
