#!/usr/bin/env bats
#
# config.yaml: by which means it is written, when it is committed, what is refused.

load helpers

setup() {
	common_setup
	start_daemon
	box x
	CONF=$MNT/boxes/x/config.yaml
}

# A config of about 40 KB, so that it takes many writes.
big_config() {
	printf '# %s\n' "$(printf 'comment %.0s' {1..20})"
	local i
	for i in {1..250}; do printf '# %0150d\n' "$i"; done
	echo "$SLEEPER"
}

# stored TEXT: the config is TEXT, to the byte.
stored() {
	printf '%s' "$1" >"$W/expected"
	ok cat "$CONF"
	cmp "$W/expected" "$W/out" || fail "config.yaml is not what was written: $out"
}

# explains ERRNO CONFIG PATTERN: a config is refused, by the sentence, and
# what was there stays.
explains() {
	ok cat "$CONF"
	local old=$out
	configure x <<<"$2"
	((rc != 0)) || fail "accepted: $2"
	assert "$err" has "${ERRNO_TEXT[$1]}" "error for: $2"
	rd x/last_error
	assert "$out" =~ "$3" "last_error for: $2"
	assert "$(wc -l <"$W/out")" -eq 1 "lines of last_error"
	ok cat "$CONF"
	assert "$out" = "$old" "the old config"
}

@test "cat, cp, tee, dd and a heredoc write it" {
	printf '%s\nhostname: a\n' "$SLEEPER" >"$W/a"
	printf '%s\nhostname: b\n' "$SLEEPER" >"$W/b"
	ok sh -c 'cat "$1" >"$2"' sh "$W/a" "$CONF"
	ok cmp "$W/a" "$CONF"
	is x status configured
	ok cp "$W/b" "$CONF"
	ok cmp "$W/b" "$CONF"
	feed sh -c 'tee "$1"' sh "$CONF" <"$W/a"
	assert "$rc" -eq 0 "tee"
	ok cmp "$W/a" "$CONF"
	ok dd if="$W/b" of="$CONF" bs=7 status=none
	ok cmp "$W/b" "$CONF"
	ok dd if="$W/a" of="$CONF" conv=fsync status=none
	ok cmp "$W/a" "$CONF"
	ok sh -c 'cat >"$1" <<E
command: [sleep, "1"]
hostname: heredoc
E' sh "$CONF"
	stored $'command: [sleep, "1"]\nhostname: heredoc\n'
}

@test "python, perl and vim write it" {
	py 'import sys; open(sys.argv[1], "w").write("command: [sleep, python]\n")' "$CONF"
	stored $'command: [sleep, python]\n'
	ok perl -e 'open F, ">", $ARGV[0] or die $!; print F "command: [sleep, perl]\n"; close F or die $!' "$CONF"
	stored $'command: [sleep, perl]\n'
	HOME=$W ok vim -es -u NONE -i NONE -n -c '%s/perl/vim/' -c wq "$CONF"
	stored $'command: [sleep, vim]\n'
	HOME=$W ok vim -es -u NONE -i NONE -c '%s/vim/swap/' -c wq "$CONF"
	stored $'command: [sleep, swap]\n'
}

@test "vim keeps its text when the config is refused" {
	configure x <<<"$SLEEPER"
	HOME=$W try vim -es -u NONE -i NONE -n -c '%s/command/comand/' -c 'w' -c 'q!' "$CONF"
	stored "$SLEEPER"$'\n'
	rd x/last_error
	assert "$out" has 'did you mean "command"' "last_error"
}

@test "printf of two writes is one config" {
	local sh
	for sh in bash dash 'busybox sh'; do
		# shellcheck disable=SC2086
		ok $sh -c 'printf "command: [sleep, infinity]\nhostname: h1\n" >"$1"' sh "$CONF"
		stored $'command: [sleep, infinity]\nhostname: h1\n'
	done
}

@test "many writes are one config" {
	big_config >"$W/big"
	ok sh -c 'head -c 100000 "$1" >"$2"' sh "$W/big" "$CONF"
	ok cmp "$W/big" "$CONF"
	ok dd if="$W/big" of="$CONF" bs=100 status=none
	ok cmp "$W/big" "$CONF"
	is x status configured
}

@test "a shorter text leaves no tail of the longer one" {
	big_config >"$W/big"
	ok cp "$W/big" "$CONF"
	ok "${ECHO[@]}" "$CONF" "$SLEEPER"
	stored "$SLEEPER"$'\n'
	ok stat -c %s "$CONF"
	assert "$out" -eq $((${#SLEEPER} + 1)) "size"
}

@test "the text is given back byte by byte, with or without a last newline" {
	local text
	for text in "$SLEEPER" "$SLEEPER"$'\n' $'# ümläut\r\ncommand:   [sleep,   "1"]   # why\n\n\n' $'---\ncommand: [a]\n...\n'; do
		printf '%s' "$text" >"$W/text"
		ok cp "$W/text" "$CONF"
		ok cmp "$W/text" "$CONF"
	done
}

@test "append adds to the text that is there" {
	configure x <<<"$SLEEPER"
	ok bash -c 'echo "hostname: appended" >>"$1"' sh "$CONF"
	stored "$SLEEPER"$'\nhostname: appended\n'
	ok bash -c 'cat >>"$1" <<<"workdir: /tmp"' sh "$CONF"
	stored "$SLEEPER"$'\nhostname: appended\nworkdir: /tmp\n'
}

@test "an append that makes the config wrong leaves it as it was" {
	configure x <<<"$SLEEPER"
	refused EINVAL sh -c 'echo "hostnam: x" | cat >>"$1"' sh "$CONF"
	stored "$SLEEPER"$'\n'
}

@test "a child that ends in the middle of a write commits nothing" {
	configure x <<<"$SLEEPER"
	# The redirect belongs to the group: /bin/true and the first cat inherit the
	# descriptor and close it by ending, before the text is whole.
	local sh
	for sh in bash dash 'busybox sh'; do
		# shellcheck disable=SC2086
		ok $sh -c '{ echo "command:"; /bin/true; echo "  - sleep"; (exit 0); cat "$2"; } >"$1"; cat "$3/last_error"' \
			sh "$CONF" <(printf '  - infinity\nhostname: whole\n') "$MNT/boxes/x"
		assert "$out" = ok "last_error after the group of $sh"
		stored $'command:\n  - sleep\n  - infinity\nhostname: whole\n'
		rd x/events
		configure x <<<"$SLEEPER"
	done
}

@test "open and close without a write changes nothing" {
	configure x <<<"$SLEEPER"
	ok sh -c ': >"$1"' sh "$CONF"
	stored "$SLEEPER"$'\n'
	ok sh -c ': >>"$1"' sh "$CONF"
	stored "$SLEEPER"$'\n'
	is x status configured
}

@test "a write that is refused at once is seen by the builtin echo of bash" {
	configure x <<<"$SLEEPER"
	refused EINVAL bash -c 'echo "comand: [sleep]" >"$1"' sh "$CONF"
	rd x/last_error
	assert "$out" has 'line 1: unknown key "comand" (did you mean "command"?)' "last_error"
	refused EINVAL bash -c 'echo "command: [a}" >"$1"' sh "$CONF"
	stored "$SLEEPER"$'\n'
	try dash -c 'echo "comand: [sleep]" >"$1"' sh "$CONF"
	assert "$rc" -ne 0 "status of dash's echo"
	stored "$SLEEPER"$'\n'
}

@test "what only the end of the text can tell is seen by cat, cp, tee and dd" {
	local sh
	echo 'hostname: nocommand' >"$W/bad"
	configure x <<<"$SLEEPER"
	# bash opens the file in the child that becomes cat, dash before it forks.
	# busybox has a cat of its own, which does not look at close.
	for sh in bash dash 'busybox sh'; do
		# shellcheck disable=SC2086
		refused EINVAL $sh -c '/bin/cat "$1" >"$2"' sh "$W/bad" "$CONF"
		# shellcheck disable=SC2086
		refused EINVAL $sh -c '/bin/echo "hostname: nocommand" >"$1"' sh "$CONF"
	done
	refused EINVAL cp "$W/bad" "$CONF"
	refused EINVAL sh -c 'tee "$2" <"$1"' sh "$W/bad" "$CONF"
	refused EINVAL dd if="$W/bad" of="$CONF" status=none
	refused EINVAL "${ECHO[@]}" "$CONF" 'hostname: nocommand'
	rd x/last_error
	assert "$out" =~ 'command' "last_error"
	stored "$SLEEPER"$'\n'
	is x status configured
}

@test "a first config that is refused leaves the box empty" {
	configure x <<<'hostname: nocommand'
	assert "$rc" -ne 0 "status"
	is x status empty
	stored ''
	configure x <<<"$SLEEPER"
	assert "$rc" -eq 0 "status of the second"
	is x status configured
	is x last_error ok
}

@test "a refusal names the line, the key and a suggestion" {
	explains EINVAL $'# one\n# two\ncomand: [sleep]' 'line 3: unknown key "comand" \(did you mean "command"\?\)'
	explains EINVAL $'command: [sleep]\nworkdri: /' 'line 2: .*"workdri".*"workdir"'
	explains EINVAL $'command: [sleep]\nstop:\n  signla: TERM' 'line 3: .*signla.*signal'
	explains EINVAL $'command: [sleep]\nmounts:\n- {source: /tmp, target: /mnt, readonyl: true}' 'line 3: .*readonyl.*readonly'
}

@test "wrong types, duplicate keys and values out of range are refused" {
	local c='command: [sleep]'
	configure x <<<"$SLEEPER"
	explains EINVAL 'command: sleep 1' 'line 1: .*command'
	explains EINVAL 'command: []' 'command'
	explains EINVAL 'command: [""]' 'command'
	explains EINVAL 'command: {a: b}' 'line 1: .*command'
	explains EINVAL "$c"$'\ncommand: [sleep]' 'line 2: .*command'
	explains EINVAL "$c"$'\nenv: [A]' 'line 2: .*env'
	explains EINVAL "$c"$'\nenv: {"A=B": c}' '"A='
	explains EINVAL "$c"$'\nenv: {A: b, A: c}' '"?A"?'
	explains EINVAL "$c"$'\nworkdir: relative' 'workdir'
	explains EINVAL "$c"$'\nhostname: "a b"' 'hostname'
	explains EINVAL "$c"$'\nhostname: '"$(printf 'h%.0s' {1..65})" 'hostname'
	explains EINVAL "$c"$'\nnetwork: bridge' 'network'
	explains EINVAL "$c"$'\nengine: docker' 'engine'
	explains EINVAL "$c"$'\nmounts: [{source: relative, target: /mnt}]' 'source'
	explains EINVAL "$c"$'\nmounts: [{source: /tmp, target: relative}]' 'target'
	explains EINVAL "$c"$'\nmounts: [{source: /tmp}]' 'target'
	explains EINVAL "$c"$'\nrlimits: {nofiles: 1}' 'nofiles.*nofile'
	explains EINVAL "$c"$'\nrlimits: {nofile: -1}' 'nofile'
	explains EINVAL "$c"$'\nsecurity: {capabilities: {add: [CAP_NONSENSE]}}' 'CAP_NONSENSE'
	explains EINVAL "$c"$'\nstop: {signal: SIGNONE}' 'SIGNONE'
	explains EINVAL "$c"$'\nstop: {timeout: soon}' 'timeout'
	explains EINVAL "$c"$'\nstop: {timeout: -1s}' 'timeout'
	explains EINVAL "$c"$'\nautostart: maybe' 'autostart'
	explains EINVAL "$c"$'\ndetach: 1' 'detach'
	explains EINVAL "$c"$'\nlog: {max_size: lots}' 'max_size'
	explains EINVAL "$c"$'\nlog: {max_size: 0}' 'max_size'
	explains EINVAL "$c"$'\nlabels: [a]' 'labels'
	explains EINVAL '[command, sleep]' '.'
	explains EINVAL 'just text' '.'
	explains EINVAL "$c"$'\n---\ncommand: [second]' '.'
	explains EINVAL $'command: [sleep]\n\tworkdir: /' 'line'
	is x status configured
}

@test "a NUL in a value of command or env is refused" {
	explains EINVAL 'command: ["a\0b"]' 'command'
	explains EINVAL $'command: [a]\nenv: {A: "b\\0c"}' 'env|A'
}

@test "what later versions add is refused by name, never ignored" {
	explains EINVAL $'command: [sleep]\nengine: vm' 'engine.*not supported yet'
	is x status empty
}

@test "over 64 KiB is EFBIG" {
	configure x <<<"$SLEEPER"
	{
		echo "$SLEEPER"
		head -c 65600 /dev/zero | tr '\0' '#'
	} >"$W/huge"
	refused EFBIG cp "$W/huge" "$CONF"
	refused EFBIG sh -c 'cat "$1" >"$2"' sh "$W/huge" "$CONF"
	refused EFBIG dd if="$W/huge" of="$CONF" bs=1000 status=none
	rd x/last_error
	assert "$out" =~ '64 ?KiB' "last_error"
	stored "$SLEEPER"$'\n'
	{
		echo "$SLEEPER"
		head -c $((65536 - ${#SLEEPER} - 2)) /dev/zero | tr '\0' '#'
		echo
	} >"$W/full"
	assert "$(wc -c <"$W/full")" -eq 65536 "size of the largest config"
	ok cp "$W/full" "$CONF"
	ok cmp "$W/full" "$CONF"
}

# The writer has written a text that would be a config by itself, and is killed
# before the rest.
killed_in_the_middle() {
	local sig=$1
	bg writer /usr/bin/python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [sleep, half]\n")
open(sys.argv[2], "w")
signal.pause()' "$CONF" "$W/half"
	await "half of the text to be written" 5 test -e "$W/half"
	rm "$W/half"
	kill -s "$sig" "${PID[writer]}"
	join writer
	assert "$rc" -ne 0 "status of the killed writer"
}

@test "a writer that is killed in the middle changes nothing" {
	configure x <<<"$SLEEPER"
	local sig
	for sig in KILL TERM INT; do
		killed_in_the_middle "$sig"
		stored "$SLEEPER"$'\n'
		is x status configured
	done
	configure x <<<'command: [sleep, after]'
	stored $'command: [sleep, after]\n'
}

@test "Ctrl-C of a cat that still reads changes nothing" {
	configure x <<<"$SLEEPER"
	mkfifo "$W/fifo"
	bg writer sh -c 'exec cat "$1" >"$2"' sh "$W/fifo" "$CONF"
	printf 'command: [sleep, half]\n' >"$W/fifo.text"
	exec 8<>"$W/fifo"
	cat "$W/fifo.text" >&8
	await "cat to have taken the text" 5 asleep_in_pipe "${PID[writer]}"
	kill -INT "${PID[writer]}"
	exec 8>&-
	join writer
	stored "$SLEEPER"$'\n'
}

# asleep_in_pipe PID: it has emptied the fifo and waits for more.
asleep_in_pipe() {
	[[ $(cat "/proc/$1/wchan") == *pipe_read* ]] &&
		[[ $(/usr/bin/python3 -c 'import fcntl, struct, sys, termios
print(struct.unpack("i", fcntl.ioctl(sys.stdin, termios.FIONREAD, b"\0" * 4))[0])' <"$W/fifo" 8<&-) == 0 ]]
}

@test "of two writers at once one whole text wins" {
	local i a b
	for i in 1 2 3; do
		{
			printf 'command: [sleep, "1"]\n'
			for _ in {1..400}; do echo '# aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'; done
		} >"$W/a"
		sed 's/"1"/"2"/; s/a\{40\}/bbbbbbbbbb/' "$W/a" >"$W/b"
		a=$(<"$W/a") b=$(<"$W/b")
		bg w1 dd if="$W/a" of="$CONF" bs=64 status=none
		bg w2 dd if="$W/b" of="$CONF" bs=64 status=none
		join w1
		assert "$rc" -eq 0 "first writer: $err"
		join w2
		assert "$rc" -eq 0 "second writer: $err"
		ok cat "$CONF"
		[[ $out == "$a" || $out == "$b" ]] || fail "config.yaml is neither text in round $i"
	done
}

@test "a reader sees the old text or the new one, never a half" {
	big_config >"$W/big"
	echo "$SLEEPER" >"$W/small"
	ok cp "$W/small" "$CONF"
	bg writer bash -c 'for i in {1..30}; do cat "$1" >"$3" && cat "$2" >"$3" || exit 1; done' sh \
		"$W/big" "$W/small" "$CONF"
	local n=0
	until gone "${JOB[writer]}"; do
		ok cat "$CONF"
		cmp -s "$W/out" "$W/big" || cmp -s "$W/out" "$W/small" ||
			fail "read $(wc -c <"$W/out") bytes that are neither text"
		n=$((n + 1))
	done
	join writer
	assert "$rc" -eq 0 "the writer: $err"
	assert "$n" -ge 3 "reads while the config was rewritten"
}

@test "a running box keeps what it was started with until its next start" {
	script x2 'hostname: first' <<<'hostname; exec sleep infinity'
	ctl x2 start
	logs x2 first
	assert "$(json x2 config_pending)" != True "config_pending before"
	ok sh -c 'sed s/first/second/ "$1" >"$2" && cat "$2" >"$1"' sh "$MNT/boxes/x2/config.yaml" "$W/new"
	is x2 status running
	assert "$(json x2 config_pending)" = True "config_pending"
	ctl x2 restart
	logs x2 second
	assert "$(json x2 config_pending)" != True "config_pending after the restart"
}

@test "labels are taken by a running box at once" {
	up y $'command: [sleep, infinity]\nlabels: {tier: front}'
	local pid
	pid=$(pid_of y)
	assert "$(json y config.labels.tier)" = front "label"
	configure y <<<$'command: [sleep, infinity]\nlabels: {tier: back}'
	assert "$rc" -eq 0 "rewrite"
	assert "$(json y config.labels.tier)" = back "label after"
	assert "$(json y config_pending)" != True "config_pending"
	is y pid "$pid"
}

@test "a refused config of a running box leaves it running" {
	up y "$SLEEPER"
	local pid
	pid=$(pid_of y)
	configure y <<<'comand: [x]'
	assert "$rc" -ne 0 "status"
	is y status running
	is y pid "$pid"
	is y config.yaml "$SLEEPER"
}

@test "an editor that replaces the file by another is refused and harms nothing" {
	configure x <<<"$SLEEPER"
	refused EPERM sed -i s/sleep/slip/ "$CONF"
	refused EPERM mv "$W/bin/boxlited" "$CONF"
	stored "$SLEEPER"$'\n'
}

@test "writing a second text through one descriptor after fsync commits it too" {
	py 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"command: [sleep, one]\n")
os.fsync(fd)
print(open(sys.argv[1]).read(), end="")
os.ftruncate(fd, 0)
os.lseek(fd, 0, 0)
os.write(fd, b"command: [sleep, two]\n")
os.close(fd)
print(open(sys.argv[1]).read(), end="")' "$CONF"
	assert "$out" = $'command: [sleep, one]\ncommand: [sleep, two]' "after fsync, after close"
}
