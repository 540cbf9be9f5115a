#!/usr/bin/env bats
#
# stdin, stdout and stderr of what runs in a box, opened once more by their names in /dev:
# as the logs of many images are, which link to /dev/stdout. They behave as pipes do.

load helpers
load containers

setup() {
	common_setup
	make_rootfs
	echo 'other:x:44:44::/:/bin/sh' >>"$ROOT/etc/passwd"
	start_daemon
}

E() { echo "$MNT/boxes/$1/exec/$2"; }

# REOPEN: opens each of its streams by name, and by a link to it, for itself.
REOPEN='ln -s /dev/stdout /tmp/log$(id -u); echo named >/dev/stdout; echo linked >/tmp/log$(id -u); echo teed | tee /dev/stderr >/dev/null; cat </dev/stdin; cat /dev/stdin; echo end'

# reopened: that is what it has said.
reopened() {
	local want
	for want in named linked teed end; do
		line "$want"
	done
	no_line 'denied|No such|cannot|failed'
}

# sleeper BOX CONFIG…: a box that runs until it is killed, of engine host without a root.
sleeper() {
	box "$1" "$(printf '%s\n' 'command: [sleep, "1000"]' "${@:2}")"
	ctl "$1" start
}

# each_engine TEST: with the config of each in CONFIG, and its name in RT.
each_engine() {
	local RT CONFIG
	for RT in host crun runc; do
		echo "# $RT"
		CONFIG=("rootfs: $ROOT" "runtime: $RT")
		[[ $RT != host ]] || CONFIG=("mounts: [{source: $W/tmp, target: /tmp}]")
		mkdir -p "$W/tmp"
		chmod 1777 "$W/tmp"
		"$1"
	done
}

log_of() {
	local user=$1
	run_script "$RT-${user%:*}" "${CONFIG[@]}" "user: '$user'" <<<"$REOPEN"
	reopened
}
own_streams() {
	log_of 0
	log_of 12345:12345
}
@test "the command of a box opens its streams again, as root and as another user" { each_engine own_streams; }

exec_as() {
	local user=$1 e
	e=$(E "$RT-x" "${user%:*}")
	ok mkdir "$e"
	feed sh -c 'exec cat >"$1"' sh "$e/cmd" <<<"{command: [sh, -c, '$REOPEN'], user: '$user'}"
	((rc == 0)) || fail "refused: $err"
	ok sh -c 'echo written >"$1"' sh "$e/stdin"
	rd "$RT-x/exec/${user%:*}/stdout"
	line written
	local said=$out
	rd "$RT-x/exec/${user%:*}/stderr"
	out+=$'\n'$said
	reopened
}
exec_streams() {
	sleeper "$RT-x" "${CONFIG[@]}"
	exec_as 0
	exec_as 12345:12345
	ctl "$RT-x" kill
}
@test "an exec opens its streams again, as root and as another user" { each_engine exec_streams; }

probe_streams() {
	local user
	for user in 0 12345:12345; do
		sleeper "$RT-${user%:*}" "${CONFIG[@]}" "user: '$user'" \
			'health_check: {command: [sh, -c, "exec >/dev/stdout 2>/dev/stderr </dev/stdin; echo said; echo more | tee /dev/stderr >/dev/null"], interval: 100ms, start_period: 0s, retries: 1}'
		await "a probe" 10 eval '[[ $(json "$RT-${user%:*}" probe.time) != None ]]'
		assert "$(json "$RT-${user%:*}" probe.output)" = $'said\nmore' "output of the probe as $user"
		ctl "$RT-${user%:*}" kill
	done
}
@test "a probe opens its streams again, as root and as another user" { each_engine probe_streams; }

changed_user() {
	local become='su other -c'
	[[ $RT != host ]] || become='setpriv --reuid 44 --regid 44 --clear-groups sh -c'
	run_script "$RT-su" "${CONFIG[@]}" 'security: {capabilities: {add: [SETUID, SETGID]}}' \
		<<<"$become 'id -u; echo named >/dev/stdout; echo teed | tee /dev/stderr >/dev/null'"
	line 44
	line named
	line teed
	no_line denied
}
@test "who has become another user in a box opens the streams again that he has kept" { each_engine changed_user; }

late_reader() {
	local e
	sleeper "$RT-l" "${CONFIG[@]}"
	e=$(E "$RT-l" e1)
	ok mkdir "$e"
	ok "${ECHO[@]}" "$e/cmd" '{command: [sh, -c, "until [ -e /tmp/go ]; do sleep 0.02; done; cat /dev/stdin; cat /dev/stdin; echo end"]}'
	ok sh -c 'echo written >"$1"' sh "$e/stdin"
	# Its last writer has closed it: that is over before the command opens it.
	refused EPIPE "${ECHO[@]}" "$e/stdin" 'too late'
	ok mkdir "$(E "$RT-l" e2)"
	ok "${ECHO[@]}" "$(E "$RT-l" e2)/cmd" 'touch /tmp/go'
	rd "$RT-l/exec/e1/stdout"
	assert "$out" = $'written\nend' "what was read"
	rm -f "$W/tmp/go"
	ctl "$RT-l" kill
}
@test "who opens /dev/stdin after its writer has closed it reads what was written, and EOF" { each_engine late_reader; }

@test "stdin has its order and its end through the pipe, however large and in whatever pieces" {
	up x "$SLEEPER"
	local e want
	e=$(E x e1)
	ok mkdir "$e"
	ok "${ECHO[@]}" "$e/cmd" 'sha256sum /dev/stdin'
	py 'import os, random, hashlib, sys
r, h = random.Random(7), hashlib.sha256()
fd = os.open(sys.argv[1], os.O_WRONLY)
for n in [1] * 300 + [r.randrange(1, 300000) for _ in range(40)]:
    b = r.randbytes(n)
    h.update(b)
    while b:
        b = b[os.write(fd, b):]
os.close(fd)
print(h.hexdigest())' "$e/stdin"
	want=$out
	rd x/exec/e1/stdout
	assert "$out" = "$want  /dev/stdin" "sum of what the command has read"
}

@test "a command that closes its stdin gives its writers EPIPE, and one that does not read holds them up" {
	up x "$SLEEPER"
	local e
	e=$(E x e1)
	ok mkdir "$e"
	ok "${ECHO[@]}" "$e/cmd" '{command: [sh, -c, "exec <&-; echo closed; sleep 1000"]}'
	ok head -n 1 "$e/stdout"
	refused EPIPE sh -c 'cat /dev/zero >"$1"' sh "$e/stdin"
	e=$(E x e2)
	ok mkdir "$e"
	ok "${ECHO[@]}" "$e/cmd" '{command: [sh, -c, "read x; sleep 0.3; exec sleep 1000 <&-"]}'
	bg writer sh -c 'exec cat /dev/zero >"$1"' sh "$e/stdin"
	await_blocked writer
	ok "${ECHO[@]}" "$e/ctl" kill
	join writer
	assert "$err" has "Broken pipe" "a writer that waited"
}

@test "what waits in stdin outlives the daemon, and is read when it is wanted" {
	up x "$SLEEPER"
	local e
	e=$(E x e1)
	ok mkdir "$e"
	ok "${ECHO[@]}" "$e/cmd" "{command: [sh, -c, 'until [ -e $W/go ]; do sleep 0.02; done; sha256sum </dev/stdin']}"
	head -c 60000 /dev/urandom >"$W/data"
	T=60 bg writer sh -c 'exec 3>"$2"; cat "$1" >&3; echo all; exec sleep 1000' sh "$W/data" "$e/stdin"
	await "all to be written" 10 grep -q all "$W/writer.out"
	kill_daemon
	start_daemon
	: >"$W/go"
	ok "${ECHO[@]}" "$e/ctl" close_stdin
	rd x/exec/e1/stdout
	assert "$out" = "$(sha256sum <"$W/data")" "what the command has read"
}
