#!/usr/bin/env bats
#
# The metrics: what is counted, how it is read, and what is made of it.

load helpers
load hostile

setup() { common_setup; }

teardown() {
	local failed=0
	drop_freezer
	common_teardown || failed=1
	drop_freezer now || failed=1
	return $failed
}

# scrape NAME: reads the metrics into $W/NAME.
scrape() {
	ok cat "$MNT/metrics"
	cp "$W/out" "$W/$1"
}

# value SERIES: its value in the last scrape "now".
value() {
	scrape now
	S=$1 awk 'index($0, ENVIRON["S"] " ") == 1 {print substr($0, length(ENVIRON["S"]) + 2)}' "$W/now"
}

value_is() { [[ $(value "$1") == "$2" ]]; }

# lint FILE: promtool has nothing to say of it.
lint() {
	feed promtool check metrics <"$1"
	assert "$rc $out$err" = "0 " "promtool check metrics"
}

# counted [LINE…]: exactly these counters of what happens to boxes have grown since the
# last call, each written as "SERIES BY".
counted() {
	touch "$W/before"
	scrape after
	assert "$(awk '/^boxlite_(starts|stops|kills|restarts|oom_kills|zombies_swept|box_stats_errors)_total|^boxlite_(reap|health_probe)_duration_seconds_count/ {
		name = $0
		sub(/ [^ ]*$/, "", name)
		sub(/^boxlite_/, "", name)
		if (FILENAME ~ /before$/) was[name] = $NF
		else if ($NF != was[name] + 0) print name, $NF - was[name]
	}' "$W/before" "$W/after" | sort)" = "$(printf '%s\n' "$@" | sort)" "what was counted"
	mv "$W/after" "$W/before"
}

@test "promtool has nothing to say of the metrics, of whatever boxes there are" {
	start_daemon
	scrape empty
	lint "$W/empty"
	up x "$SLEEPER"$'\n''labels: {team: a}'
	box configured "$SLEEPER"
	box empty
	up killed "$SLEEPER"
	ctl killed kill
	run_script exited <<<'exit 3'
	refused EPERM rm "$MNT/version"
	scrape full
	lint "$W/full"
	local metric
	for metric in boxes starts_total stops_total kills_total reap_duration_seconds zombies_swept_total health_probe_duration_seconds \
		restarts_total oom_kills_total fuse_request_duration_seconds notifier_lag_seconds waiters box_info \
		box_cpu_seconds_total box_memory_bytes box_pids build_info; do
		assert "$(grep -c "^# TYPE boxlite_$metric " "$W/full")" -eq 1 "boxlite_$metric"
	done
	grep -q '^process_resident_memory_bytes ' "$W/full" || fail "nothing of the process"
	grep -q '^go_goroutines ' "$W/full" || fail "nothing of Go"
	assert "$(grep ^boxlite_build_info "$W/full")" =~ "^boxlite_build_info\{commit=\"[^\"]+\",goversion=\"go[0-9.]+\",version=\"$(t cut -d' ' -f2 "$MNT/version")\"\} 1$" "build_info"
}

@test "probes and restarts are counted" {
	start_daemon
	scrape before
	box x $'command: [sh, -c, "exit 3"]\nrestart: {policy: on-failure, max_retries: 2}'
	ctl x start
	rd x/wait/stopped
	counted 'restarts_total{policy="on-failure"} 2' 'starts_total 3' 'stops_total{cause="exit"} 3'
	up y "$SLEEPER
health_check: {command: [sh, -c, 'test -e $W/once || { touch $W/once; exit 1; }'], interval: 1h, retries: 1, start_period: 0s, on_unhealthy: restart}"
	restarted() { grep -q '^restarts 1$' < <(t cat "$MNT/boxes/y/stats"); }
	await "a restart" 10 restarted
	rd y/wait/healthy
	ctl y kill
	scrape after
	local line
	for line in 'restarts_total{policy="unhealthy"} 1' 'stops_total{cause="unhealthy"} 1' 'stops_total{cause="kill"} 1'; do
		grep -qxF "boxlite_$line" "$W/after" || fail "not counted: $line; but: $(grep -E '_(stops|restarts)_total.* [1-9]' "$W/after")"
	done
	grep -q '^boxlite_health_probe_duration_seconds_count{kind="command",outcome="unhealthy"} 1$' "$W/after" || fail "no probe counted"
	box z "$SLEEPER"$'\nexpire: {after: 50ms}'
	ctl z start
	rd z/wait/stopped
	scrape after
	grep -qxF 'boxlite_stops_total{cause="expired"} 1' "$W/after" || fail "no end by time counted"
}

@test "what happens to a box is counted, once" {
	local shim cmd ns
	start_daemon
	counted
	up x "$SLEEPER"$'\nhealth_check: {disabled: true}'
	counted 'starts_total 1'
	ctl x start
	ctl x pause
	ctl x resume
	counted
	ctl x kill
	counted 'kills_total 1' 'reap_duration_seconds_count{outcome="reaped"} 1' 'stops_total{cause="kill"} 1'
	ctl x kill
	ctl x stop
	counted
	ctl x start
	ctl x restart
	counted 'starts_total 2' 'stops_total{cause="restart"} 1'
	ctl x stop
	counted 'stops_total{cause="stop"} 1'
	ctl x start
	ctl x 'signal KILL'
	rd x/wait/stopped
	counted 'starts_total 1' 'stops_total{cause="signal"} 1'
	ctl x start
	kill -TERM "$(pid_of x)"
	rd x/wait/stopped
	counted 'starts_total 1' 'stops_total{cause="term"} 1'
	ctl x start
	kill -KILL "$(pid_of x)"
	rd x/wait/stopped
	counted 'starts_total 1' 'stops_total{cause="shim-killed"} 1'
	run_script y <<<'exit 3'
	counted 'starts_total 1' 'stops_total{cause="exit"} 1'
	box z 'command: [/nowhere]'
	try "${ECHO[@]}" "$MNT/boxes/z/ctl" start
	becomes z status failed
	counted 'starts_total 1' 'stops_total{cause="start-failed"} 1'
	# What is refused has not happened.
	box none
	ctl_refused ENODATA none start
	ctl_refused ESRCH x pause
	counted
}

@test "an OOM kill is counted, and as the cause of the end" {
	start_daemon
	counted
	box x "$(printf 'command: [/usr/bin/python3, -c, "x = b'"'x'"' * (200 << 20)"]\nresources: {memory: 64MiB}')"
	ctl x start
	rd x/wait/stopped
	counted 'starts_total 1' 'stops_total{cause="oom"} 1' 'oom_kills_total 1'
	assert "$(value 'boxlite_box_oom_kills_total{box="x"}')" = 1 "of the box"
}

@test "a kill that is not reaped in its bound is counted as such, and its end when it comes" {
	local shim cmd ns
	start_daemon
	counted
	up x "$SLEEPER"
	hold x
	make_freezer
	freeze "$cmd"
	counted 'starts_total 1'
	ctl_timed_out() {
		try "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
		assert "$err" has 'Connection timed out' "the kill"
	}
	ctl_timed_out
	counted 'kills_total 1' 'reap_duration_seconds_count{outcome="timed-out"} 1'
	ctl_timed_out
	counted 'reap_duration_seconds_count{outcome="timed-out"} 1'
	thaw
	becomes x status stopped
	counted 'reap_duration_seconds_count{outcome="reaped"} 1' 'stops_total{cause="kill"} 1'
	# From the first SIGKILL on.
	assert "$(value 'boxlite_reap_duration_seconds_bucket{outcome="reaped",le="2"}')" = 0 "reaped within 2 s"
}

@test "the ends of adopted boxes are counted by the daemon that sees them" {
	local pid
	start_daemon
	up x "$SLEEPER"
	up y "$SLEEPER"
	up gone "$SLEEPER"
	up tied "$SLEEPER"$'\ndetach: false'
	pid=$(pid_of gone)
	kill_daemon
	kill -KILL "$pid"
	await "the shim to go" 5 gone "$pid"
	start_daemon
	becomes tied status stopped
	becomes gone status stopped
	counted 'stops_total{cause="daemon-died"} 1' 'stops_total{cause="lost"} 1'
	ctl x kill
	ctl y stop
	rd x/events
	local outcome
	outcome=$(sed -n 's/.* reaped .*outcome=//p' <<<"$out")
	assert "$outcome" =~ '^(not-our-child|already-gone)$' "outcome"
	counted 'kills_total 1' "reap_duration_seconds_count{outcome=\"$outcome\"} 1" 'stops_total{cause="kill"} 1' 'stops_total{cause="stop"} 1'
}

@test "boxes are counted by state, and each says its own" {
	start_daemon
	box empty
	box configured "$SLEEPER"
	up run "$SLEEPER"
	up pause "$SLEEPER"
	ctl pause pause
	run_script stop <<<'exit 0'
	scrape now
	assert "$(sed -n 's/^boxlite_boxes{status="\(.*\)"} /\1 /p' "$W/now" | grep -v ' 0$' | paste -sd,)" = \
		'configured 1,empty 1,paused 1,running 1,stopped 1' "boxes by state"
	assert "$(grep ^boxlite_box_info "$W/now")" = 'boxlite_box_info{box="configured",health="none",status="configured"} 1
boxlite_box_info{box="empty",health="none",status="empty"} 1
boxlite_box_info{box="pause",health="healthy",status="paused"} 1
boxlite_box_info{box="run",health="healthy",status="running"} 1
boxlite_box_info{box="stop",health="none",status="stopped"} 1' "box_info"
	ctl pause resume
	ok rmdir "$MNT/boxes/empty"
	assert "$(value 'boxlite_boxes{status="empty"}')" = 0 "empty boxes after rmdir"
	assert "$(grep -c 'box="empty"' "$W/now")" -eq 0 "series of a box that is gone"
}

@test "what a box uses is that of stats, in base units" {
	start_daemon
	script x 'resources: {memory: 256MiB}' <<'SH'
sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done'
echo finished
exec sleep 1000
SH
	ctl x start
	logs x finished
	only_sleep() { [[ $(t sed -n 's/^pids //p' "$MNT/boxes/x/stats") == 1 ]]; }
	await "the sleep" 5 only_sleep
	assert "$(value 'boxlite_box_pids{box="x"}')" = 1 "pids"
	same() {
		rd x/stats
		cp "$W/out" "$W/stats"
		scrape now
		awk '
			FILENAME ~ /stats$/ {is[$1] = $2}
			/^boxlite_box_cpu_seconds_total{box="x"} / {cpu = $2 * 1e6}
			/^boxlite_box_memory_bytes{box="x"} / {memory = $2 + 0}
			END {exit !(cpu >= is["cpu_usec"] - 1 && cpu < is["cpu_usec"] + 1e5 && cpu > 1e4 && memory == is["memory_bytes"] && memory > 0)}
		' "$W/stats" "$W/now"
	}
	await "both to say the same" 5 same
	ctl x stop
	rd x/stats
	# What it has used stays; what it does not use any more has no series.
	assert "$(value 'boxlite_box_cpu_seconds_total{box="x"}' | awk '{printf "%d", $1 * 1e6 + 1e-4}')" -eq "$(sed -n 's/^cpu_usec //p' <<<"$out")" "CPU of the last run"
	assert "$(grep -cE '^boxlite_box_(memory_bytes|pids)\{' "$W/now")" -eq 0 "series of memory and pids"
}

@test "a box's labels are on each of its series, whatever they are called" {
	start_daemon
	box x "$(cat <<'YAML'
command: [sleep, infinity]
labels:
  team: "a \"b\" \\ c"
  example.com/owner: Zoë 😀
  a.b: one
  a-b: two
  a_b: three
  "9": nine
  empty: ""
  status: mine
  box: mine
YAML
)"
	up y "$SLEEPER"$'\n''labels: {other: z}'
	ctl x start
	rd x/wait/running
	scrape now
	lint "$W/now"
	local labels='label_9="nine",label_a_b="three",label_a_b_2="two",label_a_b_3="one",label_box="mine",label_empty="",label_example_com_owner="Zoë 😀",label_status="mine",label_team="a \"b\" \\ c"'
	assert "$(grep -F 'box="x"' "$W/now" | sed 's/ [^ ]*$//')" = "boxlite_box_cpu_seconds_total{box=\"x\",$labels}
boxlite_box_info{box=\"x\",health=\"healthy\",$labels,status=\"running\"}
boxlite_box_memory_bytes{box=\"x\",$labels}
boxlite_box_oom_kills_total{box=\"x\",$labels}
boxlite_box_pids{box=\"x\",$labels}" "series of x"
	grep -q '^boxlite_box_pids{box="y",label_other="z"} 1$' "$W/now" || fail "series of y: $(grep 'box="y"' "$W/now")"
	# They hold at once.
	configure y <<<"$SLEEPER"
	assert "$(value 'boxlite_box_pids{box="y"}')" = 1 "after the labels were taken away"
}

@test "a box whose cgroup cannot be read spoils no scrape" {
	local dir file
	start_daemon
	up x "$SLEEPER"
	up y "$SLEEPER"
	dir=$(cgroup_of "$(box_command "$(pid_of x)")" pids)
	counted 'starts_total 2'
	file=$dir/pids.current
	mount --bind /dev/null "$file"
	scrape now
	umount "$file"
	lint "$W/now"
	assert "$(grep -c '^boxlite_box_[a-z_]*{box="x"' "$W/now")" -eq 2 "series of x: $(grep 'box="x"' "$W/now")"
	assert "$(grep -c '^boxlite_box_[a-z_]*{box="y"' "$W/now")" -eq 5 "series of y"
	counted 'box_stats_errors_total 1'
	assert "$(value 'boxlite_box_pids{box="x"}')" = 1 "when it can be read again"
}

@test "the file is read whole by every tool, and a look at it gathers nothing" {
	local dir
	start_daemon
	up x "$SLEEPER"
	ok stat -c '%a %s %F' "$MNT/metrics"
	assert "$out" = '444 0 regular empty file' "stat"
	scrape now
	local last='process_virtual_memory_max_bytes'
	ok cp "$MNT/metrics" "$W/copy"
	assert "$(tail -n 1 "$W/copy")" has "$last" "the end of what cp made"
	ok dd if="$MNT/metrics" bs=100 status=none
	assert "$(tail -n 1 "$W/out")" has "$last" "the end of what dd made"
	ok wc -l "$MNT/metrics"
	assert "${out%% *}" -eq "$(wc -l <"$W/copy")" "lines by wc"
	ok tail -n 1 "$MNT/metrics"
	assert "$out" has "$last" "tail"
	ok grep -c '^boxlite_box_pids{box="x"} 1$' "$MNT/metrics"
	py 'import sys
print(open(sys.argv[1]).read().splitlines()[-1])' "$MNT/metrics"
	assert "$out" has "$last" "python"
	ok sh -c 'promtool check metrics <"$1"' sh "$MNT/metrics"
	assert "$out$err" = '' "promtool"
	refused EACCES "${ECHO[@]}" "$MNT/metrics" text
	refused EPERM chmod 600 "$MNT/metrics"
	ok touch "$MNT/metrics"
	# To look is not to gather: who gathers finds that this cannot be read, and counts it.
	counted 'starts_total 1'
	dir=$(cgroup_of "$(box_command "$(pid_of x)")" pids)
	mount --bind /dev/null "$dir/pids.current"
	try stat "$MNT/metrics"
	try ls -lR "$MNT"
	umount "$dir/pids.current"
	counted
}

@test "an open file is a snapshot: its reads never mix two states" {
	start_daemon
	box x "$SLEEPER"
	py 'import os, sys
d = sys.argv[1]
def starts(text):
    return [l for l in text.decode().splitlines() if l.startswith("boxlite_starts_total")]
fd = os.open(d + "/metrics", os.O_RDONLY)
text = os.read(fd, 100)
c = os.open(d + "/boxes/x/ctl", os.O_WRONLY)
os.write(c, b"start\n")
os.close(c)
while more := os.read(fd, 4096):
    text += more
print(starts(text), starts(open(d + "/metrics", "rb").read()))' "$MNT"
	assert "$out" = "['boxlite_starts_total 0'] ['boxlite_starts_total 1']" "before and after"
}

@test "who waits is a gauge, and what he waited is not the time of a read" {
	local f
	start_daemon
	up x "$SLEEPER"
	assert "$(value boxlite_fuse_open_files)" = 0 "open files"
	for f in stopped exit log event; do
		bg "$f" cat "$MNT/boxes/x/wait/$f"
	done
	bg all cat "$MNT/wait/event"
	await_blocked stopped exit log event all
	scrape now
	assert "$(sed -n 's/^boxlite_waiters{file="\(.*\)"} /\1 /p' "$W/now" | paste -sd,)" = 'event 2,exit 1,healthy 0,log 1,running 0,stopped 1' "waiters"
	assert "$(value boxlite_fuse_open_files)" = 5 "open files"
	kill_tree "${PID[exit]}"
	join exit
	assert "$(value 'boxlite_waiters{file="exit"}')" = 0 "waiters after SIGKILL"
	local reads waits
	reads=$(value 'boxlite_fuse_request_duration_seconds_count{operation="read"}')
	waits=$(value 'boxlite_fuse_request_duration_seconds_count{operation="wait"}')
	ctl x kill
	join stopped
	join log
	scrape now
	assert "$(sed -n 's/^boxlite_waiters{file="\(.*\)"} /\1 /p' "$W/now" | paste -sd,)" = 'event 2,exit 0,healthy 0,log 0,running 0,stopped 0' "waiters after the kill"
	# Two of stopped: the text and its end. One of log, and the events.
	assert "$(value 'boxlite_fuse_request_duration_seconds_count{operation="wait"}')" -ge $((waits + 5)) "waits"
	# Two files of metrics since, each read twice to its end at most.
	assert "$(value 'boxlite_fuse_request_duration_seconds_count{operation="read"}')" -le $((reads + 20)) "reads"
	ok rmdir "$MNT/boxes/x"
	kill_tree "${PID[all]}"
	join event
	join all
	await "all to be closed" 5 value_is boxlite_fuse_open_files 0
}

@test "requests are counted by operation" {
	local before after
	start_daemon
	box x "$SLEEPER"
	ops() {
		scrape now
		sed -n 's/^boxlite_fuse_request_duration_seconds_count{operation="\(.*\)"} /\1 /p' "$W/now"
	}
	before=$(ops)
	py 'import os, sys
d = sys.argv[1]
for i in range(100):
    fd = os.open(d + "/boxes/x/status", os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)
for i in range(10):
    os.mkdir(d + "/boxes/y")
    os.rmdir(d + "/boxes/y")
for i in range(7):
    try:
        os.unlink(d + "/version")
    except PermissionError:
        pass' "$MNT"
	after=$(ops)
	by() { awk -v op="$1" '$1 == op {print (NR == FNR ? -1 : 1) * $2}' <(echo "$before") <(echo "$after") | awk '{n += $1} END {print n + 0}'; }
	# One more of each by the scrape itself, or some.
	assert "$(by open)" -ge 100 "opens"
	assert "$(by open)" -le 110 "opens"
	assert "$(by read)" -ge 100 "reads"
	assert "$(by release)" -ge 100 "releases"
	assert "$(by mkdir)" -eq 10 "mkdirs"
	assert "$(by rmdir)" -eq 10 "rmdirs"
	assert "$(by unlink)" -eq 7 "unlinks"
	assert "$(by wait)" -eq 0 "waits"
	assert "$(by flush)" -eq 0 "flushes"
	counted
	ctl x start
	assert "$(value 'boxlite_fuse_request_duration_seconds_count{operation="write"}')" -eq 2 "writes: of the config and of ctl"
}

# tcp_sockets: how many the daemon listens at.
tcp_sockets() {
	local inodes
	inodes=$(find "/proc/$DAEMON/fd" -lname 'socket:*' -printf '%l\n' | tr -cd '0-9\n' | paste -sd'|')
	[[ -n $inodes ]] || { echo 0 && return; }
	awk '$4 == "0A" {print $10}' /proc/net/tcp /proc/net/tcp6 | grep -cxE "$inodes" || :
}

# listening: sets URL to where the daemon says that it serves the metrics.
listening() {
	local address
	address=$(sed -n 's/.*msg="serving metrics".* address="\?\([^" ]*\).*/\1/p' "$LOG" | tail -n 1)
	[[ -n $address ]] || fail "no address in the log"
	URL=http://${address/0.0.0.0/127.0.0.1}
}

# fetch URL [METHOD]: sets out to the status, and puts the text into $W/fetched.
fetch() {
	py 'import sys, urllib.error, urllib.request
try:
    r = urllib.request.urlopen(urllib.request.Request(sys.argv[1], method=sys.argv[3]), timeout=10)
except urllib.error.HTTPError as e:
    r = e
open(sys.argv[2], "wb").write(r.read())
print(r.status, r.headers["Content-Type"])' "$1" "$W/fetched" "${2:-GET}"
}

@test "nothing listens unless it is asked to; with --metrics-listen it is the same text" {
	local URL
	start_daemon
	assert "$(tcp_sockets)" -eq 0 "sockets"
	restart_daemon --metrics-listen 127.0.0.1:0
	assert "$(tcp_sockets)" -eq 1 "sockets"
	listening
	! grep -q 'without authentication' "$LOG" || fail "a warning about loopback"
	up x "$SLEEPER"$'\n''labels: {team: Zoë}'
	fetch "$URL/metrics"
	assert "$out" =~ '^200 text/plain; version=0.0.4' "answer"
	lint "$W/fetched"
	scrape now
	names() { sed -n 's/^# TYPE //p' "$1"; }
	assert "$(names "$W/fetched")" = "$(names "$W/now")" "metrics over HTTP and by file"
	boxes() { grep -E '^boxlite_(box_(info|pids)|boxes|st)' "$1"; }
	assert "$(boxes "$W/fetched")" = "$(boxes "$W/now")" "series over HTTP and by file"
	fetch "$URL/"
	assert "$out" =~ ^404 "another path"
	fetch "$URL/metrics" POST
	assert "$out" =~ ^405 "another method"
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "exit status"
}

@test "an address that cannot be had is said before anything is mounted" {
	local before
	bg taken /usr/bin/python3 -c 'import socket, signal
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
signal.pause()'
	port_there() { [[ -s $W/taken.out ]]; }
	await "the port" 5 port_there
	launch_daemon --metrics-listen "127.0.0.1:$(<"$W/taken.out")"
	await_daemon
	assert "$DAEMON_RC" -eq 1 "exit status"
	assert "$(mount_count)" -eq 0 "mounts"
	grep -q -- "--metrics-listen: .*127.0.0.1:$(<"$W/taken.out"): .*address already in use" "$LOG" || fail "what it says: $(tail -n 3 "$LOG")"
	try "$BOXLITED" --metrics-listen 9120
	assert "$rc" -eq 2 "exit status of a bad address"
	assert "$err" has 'must be an IP address or localhost, and a port' "what it says"
	start_daemon --metrics-listen 0.0.0.0:0
	grep -q 'level=warning msg=".*without authentication.*"' "$LOG" || fail "no warning: $(grep metrics "$LOG")"
}

@test "boxes come and go under scrapers, and every scrape is whole" {
	local lives starts ends
	start_daemon
	watch_fds
	starts=$(value boxlite_starts_total)
	ends() { awk '/^boxlite_stops_total/ {n += $2} END {print n}' "$W/now"; }
	ends=$(ends)
	bg lives sh -c 'exec /usr/bin/python3 "$@" <"$0"' "$(mkfifo "$W/over" && echo "$W/over")" "$BATS_TEST_DIRNAME/lives.py" "$MNT/boxes" 4
	exec {over}>"$W/over"
	T=60 py 'import subprocess, sys, threading
bad = []
def scrape():
    for i in range(15):
        text = open(sys.argv[1], "rb").read()
        if not text.endswith(b"\n") or b"\nboxlite_starts_total" not in text or b"\nprocess_virtual_memory_max_bytes" not in text:
            bad.append("not whole")
        r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
        if r.returncode or r.stdout or r.stderr:
            bad.append((r.stdout + r.stderr).decode())
threads = [threading.Thread(target=scrape) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print("\n".join(bad))' "$MNT/metrics"
	assert "$out" = '' "scrapes"
	exec {over}>&-
	join lives
	assert "$rc" -eq 0 "the boxes: $err"
	lives=$out
	assert "$lives" -ge 5 "lives meanwhile"
	assert "$(value boxlite_starts_total)" -eq $((starts + lives)) "starts"
	assert "$(ends)" -eq $((ends + lives)) "ends"
	! grep -q 'not all metrics' "$LOG" || fail "$(grep 'not all metrics' "$LOG")"
}

@test "boxlite-metrics(7) has each metric, with its type and labels, and no other" {
	local page=$BATS_TEST_DIRNAME/../cmd/boxlited/boxlite-metrics.7.md cause
	start_daemon
	up x "$SLEEPER"
	scrape now
	awk '/^# TYPE boxlite_/ {type[$3] = $4; order[++n] = $3}
		/^boxlite_/ {
			name = $0
			sub(/[{ ].*/, "", name)
			if (!(name in type)) sub(/_(bucket|sum|count)$/, "", name)
			labels = ""
			line = $0
			while (match(line, /[{,][a-z_]+="/)) {
				l = substr(line, RSTART + 1, RLENGTH - 3)
				if (l != "le") labels = labels " " l
				line = substr(line, RSTART + RLENGTH)
			}
			has[name] = labels
		}
		END {for (i = 1; i <= n; i++) print order[i] " " type[order[i]] has[order[i]]}' "$W/now" | sort >"$W/product"
	# **NAME** (TYPE, UNIT; labels *NAME*, *NAME*)
	sed -nE '/^\*\*boxlite_/{s/^\*\*(boxlite_[a-z_]*)\*\* \(([a-z]*), [^;]*(; labels?([^)]*))?\)$/\1 \2\4/; s/[*,]//g; p}' "$page" | sort >"$W/page"
	try diff "$W/page" "$W/product"
	assert "$out" = '' "the page (<) and the product (>)"
	# The causes, too.
	while read -r cause; do
		grep -qE "^(\*\*[a-z]+\*\*, )*\*\*$cause\*\*(,|$)" "$page" || fail "the page has no cause $cause"
	done < <(sed -n 's/^boxlite_stops_total{cause="\(.*\)"}.*/\1/p' "$W/now")
}

@test "the dashboard is JSON, its queries are PromQL, and the metrics in them exist" {
	local dashboard=$BATS_TEST_DIRNAME/../scripts/grafana-dashboard.json metric
	start_daemon
	up x "$SLEEPER"
	scrape now
	py 'import json, re, sys
d = json.load(open(sys.argv[1]))
exprs = [t["expr"] for p in d["panels"] for t in p.get("targets", [])]
assert len(exprs) > 20 and d["title"] == "boxlite", exprs
ids = [p["id"] for p in d["panels"]]
assert len(set(ids)) == len(ids), "ids of panels"
for p in d["panels"]:
    assert p["type"] == "row" or p["datasource"]["uid"] == "${datasource}", p["title"]
names = [v["name"] for v in d["templating"]["list"]]
assert names == ["datasource", "instance", "box"], names
rules = [{"record": "x:y%d" % i, "expr": re.sub(r"\$__rate_interval|\$__range", "5m", e)} for i, e in enumerate(exprs)]
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, open(sys.argv[2], "w"))
print("\n".join(sorted(set(re.findall(r"\b(?:boxlite|process|go)_[a-z_]+", "\n".join(exprs + [v["definition"] for v in d["templating"]["list"] if "definition" in v]))))))' \
		"$dashboard" "$W/rules.yml"
	for metric in $out; do
		grep -qE "^${metric}[{ ]" "$W/now" || fail "the dashboard asks for $metric, which is not there"
	done
	# And there is a panel for each of the product's own.
	while read -r metric; do
		grep -qE "$metric(_bucket|_count)?\b" "$dashboard" || fail "the dashboard does not show $metric"
	done < <(sed -n 's/^# TYPE \(boxlite_[a-z_]*\) .*/\1/p' "$W/now")
	ok promtool check rules "$W/rules.yml"
}

@test "the textfile collector copies what is boxlite's, in one step, and nothing old" {
	local script=$BATS_TEST_DIRNAME/../scripts/textfile-collector
	mkdir "$W/textfiles"
	start_daemon --metrics-listen 127.0.0.1:0 # which has metrics of its own
	up x "$SLEEPER"
	ok "$script" "$MNT" "$W/textfiles"
	assert "$out$err" = '' "what it says"
	assert "$(ls -A "$W/textfiles")" = boxlite.prom "files"
	assert "$(stat -c %a "$W/textfiles/boxlite.prom")" = 644 "mode"
	lint "$W/textfiles/boxlite.prom"
	grep -q '^boxlite_box_pids{box="x"} 1$' "$W/textfiles/boxlite.prom" || fail "the box is not in it"
	assert "$(grep -vcE '^(# (HELP|TYPE) )?boxlite_' "$W/textfiles/boxlite.prom")" -eq 0 "lines of others"
	stop_daemon
	try "$script" "$MNT" "$W/textfiles"
	assert "$rc" -eq 1 "exit status without a daemon"
	assert "$err" has "$MNT/metrics cannot be read" "what it says"
	assert "$(ls -A "$W/textfiles")" = '' "files without a daemon"
	ok "$script" --help
	assert "$out" has 'collector.textfile.directory' "help"
	try "$script" a b c
	assert "$rc" -eq 2 "exit status of a wrong call"
}
