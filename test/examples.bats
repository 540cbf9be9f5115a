#!/usr/bin/env bats
#
# scripts/examples: each through success, failure, a time limit, an interruption, odd
# arguments and at once with itself; and that nothing of it stays.

load helpers

EXAMPLES=$BATS_TEST_DIRNAME/../scripts/examples

setup() {
	common_setup
	mkdir "$W/tmp"
	export BOXLITE=$MNT TMPDIR=$W/tmp
	start_daemon
}

teardown() {
	local left
	# The box of an example goes by itself; what is to stay, the test has removed.
	if [[ -n ${BATS_TEST_COMPLETED:-} ]] && daemon_alive; then
		left=$(t ls "$MNT/boxes")
		[[ -z $left ]] || fail "boxes are left: $left"
		left=$(ls -A "$W/tmp")
		[[ -z $left ]] || fail "files are left: $left"
		await "the readers and writers to be gone" 5 no_clients
	fi
	common_teardown
}

# no_clients: nobody has a file of the mount open.
no_clients() { [[ -z $(find /proc/[0-9]*/fd -lname "$MNT/*" 2>/dev/null) ]]; }

no_boxes() { [[ -z $(t ls "$MNT/boxes") ]]; }

# gives CODE CMD…: CMD has this exit code.
gives() {
	local want=$1
	shift
	# Not by try alone: to that 124 and 137 are a command that hangs.
	ok sh -c '"$@"; echo "$?" >"$0"' "$W/code" "$@"
	rc=$(<"$W/code")
	assert "$rc" -eq "$want" "exit code of $* ($err)"
}

boxrun() { gives "$1" "$EXAMPLES/boxrun" "${@:2}"; }

# --- boxrun ------------------------------------------------------------------

@test "boxrun gives the output and the exit code of a command" {
	boxrun 0 true
	assert "$out" = '' "output of true"
	boxrun 7 sh -c 'echo out; echo err >&2; exit 7'
	assert "$out" = $'out\nerr' "output"
	assert "$err" = '' "what boxrun says"
	boxrun 137 sh -c 'kill -9 $$'
	boxrun 0 -u nobody -w /tmp -- sh -c 'id -un; pwd'
	assert "$out" = $'nobody\n/tmp' "user and workdir"
	boxrun 0 -n named -m 64MiB -c 0.5 -t 10 hostname
	assert "$out" = named "name"
}

@test "boxrun says why a command does not run" {
	boxrun 127 no-such-command
	assert "$out" has 'no-such-command: not found' "output"
	boxrun 126 /etc/passwd
	boxrun 125 -u no-such-user true
	assert "$err" has 'unknown user "no-such-user"' "what boxrun says"
	boxrun 125 -m 5 true
	assert "$err" has 'resources.memory' "what boxrun says"
	boxrun 125 -n +x true
	assert "$err" =~ '^boxrun: box "\+x": create: a name is [^:]*$' "what boxrun says"
	local bad
	for bad in '' . .. a/b; do
		boxrun 125 -n "$bad" true
		assert "$err" = "boxrun: -n $bad: not a name for a box" "what boxrun says"
	done
	boxrun 125 -t x true
	boxrun 125
	assert "$err" has usage "what boxrun says"
}

@test "boxrun tells an OOM kill from any other" {
	boxrun 137 -m 32MiB tail /dev/zero
	assert "$err" = 'boxrun: the OOM killer has killed 1 of its processes; see -m' "what boxrun says"
	boxrun 3 -m 32MiB sh -c 'tail /dev/zero; tail /dev/zero; exit 3'
	assert "$err" = 'boxrun: the OOM killer has killed 2 of its processes; see -m' "what boxrun says of children"
	boxrun 137 -m 32MiB sh -c 'kill -9 $$'
	assert "$err" = '' "what boxrun says of another SIGKILL"
}

@test "boxrun gives a command no stdin" {
	local file=$W/in
	echo something >"$file"
	ok sh -c '"$0" cat <"$1"' "$EXAMPLES/boxrun" "$file"
	assert "$out" = '' "what the command reads"
}

@test "boxrun loses nothing of a command that is over in no time, and all at once" {
	local i
	for i in {1..20}; do
		boxrun "$i" sh -c 'echo "$0"; exit "$0"' "$i"
		assert "$out" = "$i" "output of round $i"
	done
	for i in {1..10}; do
		bg "r$i" "$EXAMPLES/boxrun" sh -c 'seq "$0"; exit "$0"' "$i"
	done
	for i in {1..10}; do
		join "r$i" 20
		assert "$rc" -eq "$i" "exit code of $i at once ($err)"
		assert "$out" = "$(seq "$i")" "output of $i at once"
	done
	ok sh -c '"$0" seq 1 100000 | cmp - "$1"' "$EXAMPLES/boxrun" <(seq 1 100000)
}

@test "boxrun does not end before its output is taken" {
	ok bash -c '{ "$0" -n x seq 1 50000; echo end; } | {
	read -r _
	while [[ -n $(ls "$1") ]]; do sleep 0.02; done
	tail -n 1
}' "$EXAMPLES/boxrun" "$MNT/boxes"
	assert "$out" = end "last line"
}

@test "boxrun gives the words of a command to the byte" {
	# shellcheck disable=SC1003
	local words=(
		'' ' ' a\ b -x -- - '"' "'" '\' '\n' '\\' '$HOME' '`id`' '#' ' # x' ': ' 'a: b' '- x' '{a: b}' '[a]' '&a' '*a' '!a' '%a' '@a' '|' '>'
		'~' null true 012 1e3 0x10 .inf '' $'new\nline' $'\n' $'\n\n' $'a\n' $'\ttab\t' ' trailing ' $'\r\n' $'\001\033\177'
		é € 😀 $'\u0085' $'\u2028\u2029' $'\ufeffa' $'\u00a0' $'\ufffd' "$(printf '%01000d' 7)"
	)
	LC_ALL=C.UTF-8
	words+=($'\u0085x' $'\u2028' $'\ufeff')
	boxrun 0 printf '<%s>\0' "${words[@]}"
	printf '<%s>\0' "${words[@]}" | cmp - "$W/out" || fail "words differ"
	local bad
	for bad in $'\377' $'\302' $'a\200' $'\340\200\200' $'\355\240\200' $'\364\220\200\200' $'\342\202'; do
		boxrun 125 echo "$bad"
		assert "$err" has 'not UTF-8' "what boxrun says"
	done
}

@test "boxrun stops a command whose time is up" {
	local took
	boxrun 124 -t 0.3 sh -c 'trap "echo bye; exit 0" TERM; echo up; sleep 60 & wait'
	assert "$out" = $'up\nbye' "output"
	timed boxrun 124 -t 1 sh -c 'trap "" TERM; echo stubborn; while :; do sleep 60; done'
	assert "$out" = stubborn "output"
	assert "$took" -ge 3000 "milliseconds of a stubborn command: 1 s and its grace"
}

# timed CMD…: sets took to the milliseconds of CMD.
timed() {
	local began
	began=$(now)
	"$@"
	took=$(($(now) - began))
}

@test "boxrun that is interrupted takes its box along" {
	local sig code
	for sig in HUP:129 INT:130 TERM:143; do
		code=${sig#*:} sig=${sig%:*}
		bg run "$EXAMPLES/boxrun" -n x sh -c 'trap "" HUP INT TERM; echo up; while :; do sleep 60; done'
		await "the output" 10 grep -q up "$W/run.out"
		kill -s "$sig" "${PID[run]}"
		join run 5
		assert "$rc" -eq "$code" "exit code after SIG$sig ($err)"
		no_boxes || fail "the box is left after SIG$sig"
		no_shims || fail "a shim is left after SIG$sig"
	done
}

@test "boxrun ends when nobody reads its output" {
	gives 141 bash -c '"$0" yes | head -n 1; exit "${PIPESTATUS[0]}"' "$EXAMPLES/boxrun"
	assert "$out" = y "output"
}

@test "a box whose boxrun was killed goes with its command" {
	mkfifo "$W/go"
	bg run "$EXAMPLES/boxrun" -n x sh -c 'echo up; read -r _ <"$0"' "$W/go"
	await "the output" 10 grep -q up "$W/run.out"
	kill -KILL "${PID[run]}"
	is x status running
	echo >"$W/go"
	await "the box to go" 5 no_boxes
	rm -f "$W"/tmp/boxrun.* # this nobody could do
}

@test "a box whose boxrun was killed before it was ready runs nothing" {
	# This one stands still between the start of the box and what comes then.
	mkdir "$W/bin/held"
	sed 's|^exec 3<.*|kill -STOP $$|' "$EXAMPLES/boxrun" >"$W/bin/held/boxrun"
	chmod +x "$W/bin/held/boxrun"
	bg run "$W/bin/held/boxrun" -n x touch "$W/ran"
	becomes x status running
	kill -KILL "${PID[run]}"
	await "the box to go" 5 no_boxes
	[[ ! -e $W/ran ]] || fail "the command was run"
	rm -f "$W"/tmp/boxrun.*
}

@test "boxrun tells how it is used" {
	ok "$EXAMPLES/boxrun" -h
	assert "$out" has 'boxrun [-t SECONDS]' "help"
}

@test "boxrun does not take the box of another" {
	mkfifo "$W/go"
	bg run "$EXAMPLES/boxrun" -n x sh -c 'echo up; read -r _ <"$0"; exit 5' "$W/go"
	await "the output" 10 grep -q up "$W/run.out"
	boxrun 125 -n x true
	assert "$err" =~ '^boxrun: .*File exists' "what boxrun says"
	is x status running
	echo >"$W/go"
	join run 5
	assert "$rc" -eq 5 "exit code of the first"
}

@test "boxrun ends when the daemon is killed" {
	bg run "$EXAMPLES/boxrun" sh -c 'echo up; sleep 60'
	await "the output" 10 grep -q up "$W/run.out"
	kill_daemon
	join run 5
	assert "$rc" -eq 125 "exit code"
	assert "$err" has 'is the daemon gone?' "what boxrun says"
}

# --- supervise ---------------------------------------------------------------

@test "supervise is a loop of 15 lines" {
	assert "$(grep -vcE '^\s*(#|$)' "$EXAMPLES/supervise")" -le 15 "lines that are no comment"
}

@test "supervise starts a box again, with a pause that grows, and stops it on TERM" {
	local gaps
	echo 'command: [sh, -c, "date +%s%N; exit 4"]' >"$W/config"
	bg sup "$EXAMPLES/supervise" x "$W/config"
	T=15 await "three runs" 15 log_lines x 3
	mapfile -t gaps < <(t cat "$MNT/boxes/x/log")
	assert $(((gaps[1] - gaps[0]) / 1000000)) -ge 1000 "milliseconds before the second run"
	assert $(((gaps[2] - gaps[1]) / 1000000)) -ge 2000 "milliseconds before the third run"
	kill -TERM "${PID[sup]}"
	join sup 5
	assert "$rc" -eq 0 "exit code ($err)"
	assert "$out" = $'4\n4\n4' "exit codes of the runs"
	ok rmdir "$MNT/boxes/x"
}

log_lines() { (($(t cat "$MNT/boxes/$1/log" 2>/dev/null | wc -l) >= $2)); }

@test "supervise stops a box that runs, whatever ends it" {
	local sig
	echo 'command: [sh, -c, "trap \"echo bye; exit 0\" TERM; echo up; while :; do sleep 0.02; done"]' >"$W/config"
	for sig in TERM INT HUP; do
		bg sup "$EXAMPLES/supervise" x "$W/config"
		becomes x status running
		logs x up
		kill -s "$sig" "${PID[sup]}"
		join sup 5
		assert "$rc" -eq 0 "exit code after SIG$sig ($err)"
		is x log $'up\nbye'
		ok rmdir "$MNT/boxes/x"
	done
}

@test "supervise says what is wrong with a config" {
	try "$EXAMPLES/supervise" sup "$W/nothing"
	assert "$rc $err" = '2 usage: supervise NAME CONFIG, a file that can be read' "a file that is not there"
	try "$EXAMPLES/supervise" sup "$W"
	assert "$rc $err" = '2 usage: supervise NAME CONFIG, a file that can be read' "a directory"
	no_boxes || fail "a box was made"
	echo 'comand: [true]' >"$W/config"
	gives 1 "$EXAMPLES/supervise" x "$W/config"
	assert "$err" has 'did you mean "command"' "what it says"
	ok rmdir "$MNT/boxes/x"
	gives 1 "$EXAMPLES/supervise" a/b "$W/config"
	gives 2 "$EXAMPLES/supervise"
	assert "$err" has 'usage: supervise NAME CONFIG' "what it says"
}

# --- nightly -----------------------------------------------------------------

nightly() { gives "$1" "$EXAMPLES/nightly" -d "$W/logs" "${@:2}"; }

kept() { find "$W/logs" -name '*.log' | sort; }

@test "nightly is silent if the job is well, and keeps the last logs" {
	local i
	for i in 1 2 3 4; do
		nightly 0 -k 2 job "printf '%s\\n' \"night $i\" '\\\\' \$((1 + 1))"
		assert "$out$err" = '' "what it says"
		sleep 1 # the names of the logs have seconds
	done
	assert "$(kept | xargs cat)" = $'night 3\n\\\\\n2\nnight 4\n\\\\\n2' "logs"
	is job status stopped
	rd job/config.yaml
	assert "$out" has 'resources: {memory: 1GiB, cpus: 1}' "limits"
	ok rmdir "$MNT/boxes/job"
}

@test "nightly tells what failed, with the end of the log, and gives its exit code" {
	nightly 3 job 'echo trouble; exit 3'
	assert "$out" has 'exit code 3: the command exited with status 3' "what it says"
	assert "${out##*$'\n'}" = trouble "its end"
	nightly 127 job 'no-such-command'
	nightly 125 -m 5 job true
	assert "$err" has 'resources.memory' "what it says"
	local bad
	for bad in '' . .. a/b; do
		nightly 125 "$bad" true
		assert "$err" has 'not a name for a box' "what it says of the name '$bad'"
	done
	nightly 125 +x true
	assert "$err" =~ '^nightly: \+x: box "\+x": create: a name is [^:]*$' "what it says"
	touch "$W/file"
	gives 125 "$EXAMPLES/nightly" -d "$W/file" job true
	assert "$err" =~ ^nightly: "what it says of a directory that is none"
	mkdir -p "$W/odd/.job.lock"
	gives 125 "$EXAMPLES/nightly" -d "$W/odd" job true
	assert "$err" =~ ^nightly: "what it says of a lock that is none"
	ok rmdir "$MNT/boxes/job"
}

@test "nightly runs all lines of a job" {
	nightly 2 job $'echo one # not the end\n\n  echo "two\n  three"\nexit 2'
	assert "$(kept | xargs cat)" = $'one\ntwo\n  three' "log"
	# What is not text is refused, not made something else.
	nightly 125 job $'echo a\rb'
	assert "$err" has 'nightly: job: box "job": config: ' "what it says"
	ok rmdir "$MNT/boxes/job"
}

@test "nightly looks at its options before it does anything" {
	local bad
	for bad in 1h30 abc 1.2.3 . ''; do
		nightly 125 -t "$bad" job true
		assert "$err" = "nightly: job: -t $bad: not a number of seconds" "what it says"
	done
	for bad in x -1 ''; do
		nightly 125 -k "$bad" job true
		assert "$err" = "nightly: job: -k $bad: not a number" "what it says"
	done
	no_boxes || fail "a box was made"
	[[ ! -e $W/logs ]] || fail "logs were made"
}

@test "two jobs of nightly may have their logs in one place" {
	bg night "$EXAMPLES/nightly" -d "$W/logs" job 'sleep 60'
	becomes job status running
	# A job keeps off the logs of one whose name begins like its own.
	nightly 0 -k 1 job.20 'echo kept'
	ctl job kill
	join night 5
	assert "$rc" -eq 137 "exit code"
	nightly 0 -k 0 job true
	assert "$(kept | xargs cat)" = kept "logs"
	ok rmdir "$MNT/boxes/job"
	ok rmdir "$MNT/boxes/job.20"
}

@test "nightly stops a job whose time is up, and one that it is itself asked to end with" {
	nightly 124 -t 1 job 'echo long; sleep 60'
	assert "$out" has 'exit code 124: the time was up after 1 s' "what it says"
	assert "${out##*$'\n'}" = long "its end"
	is job status stopped
	bg night "$EXAMPLES/nightly" -d "$W/logs" job 'sleep 60'
	becomes job status running
	kill -TERM "${PID[night]}"
	join night 5
	assert "$rc" -eq 143 "exit code"
	assert "$out$err" = '' "what it says"
	is job status stopped
	ok rmdir "$MNT/boxes/job"
}

@test "nightly does not begin while the last one runs" {
	bg night "$EXAMPLES/nightly" -d "$W/logs" job 'sleep 60'
	becomes job status running
	nightly 75 job true
	assert "$err" has 'not finished' "what it says"
	# The job outlives a nightly that is killed, and is still not overlapped.
	kill -KILL "${PID[night]}"
	nightly 75 job true
	assert "$err" has 'the last one is running' "what it says"
	ctl job kill
	nightly 0 job true
	ok rmdir "$MNT/boxes/job"
}
