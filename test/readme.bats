#!/usr/bin/env bats
#
# The README's tour and first examples are run as they stand there, but for the place of
# the mount, a registry on this host, and programs for those of the image.

load helpers

README=$BATS_TEST_DIRNAME/../README.md

setup() {
	common_setup
	start_daemon
}

# example HEADING: the script below a heading, for this mount.
example() {
	awk -v heading="$1" '/^##/ { here = $0 == heading } /^```/ { code = here && $0 == "```sh"; next } here && code' "$README" |
		sed "s,/run/boxlite,$MNT,g; s,docker://docker.io/library/,docker://${REG-},; s,/tmp/task.py agent,$W/task.py agent,; s,result.txt /tmp/,result.txt $W/,
			s,/srv/www,$W/site,; s,8080,${PORT-},g"
}

# run_example SHELL HEADING: out is what it prints.
run_example() {
	example "$2" >"$W/example"
	[[ -s $W/example ]] || fail "the README has no example $2"
	T=60 ok "$1" -ec 'cd "$1"; . "$2"' sh "$MNT/boxes" "$W/example"
}

# python: an image that does what the examples have a Python do.
python() {
	busybox_root "$W/root"
	mkdir "$W/root/srv"
	cat >"$W/root/bin/python3" <<-'E'
		#!/bin/sh
		case $* in
		'-c print(6 * 7)') echo 42 ;;
		/tmp/task.py) exec sh "$1" ;;
		'-m http.server '*) exec httpd -f -p "$3" ;;
		*) exit 2 ;;
		esac
	E
	chmod 0755 "$W/root/bin/python3"
	start_registry
	push "$REG/python:3-slim" "$W/root" --cmd python3
	REG+=/
}

@test "the tour" {
	for sh in bash dash; do
		run_example "$sh" '## A tour'
		assert "${out%%\{*}" = $'configured\n3\nworking\nthe command exited with status 3\n' "what it prints"
		ok ls "$MNT/boxes"
		assert "$out" = '' "boxes that are left"
	done
	# A wrong configuration: the error, and the sentence.
	ok mkdir "$MNT/boxes/web"
	local command
	command=$(sed -n 's/^\$ \(echo .comand.*\)/\1/p' "$README")
	try bash -c "cd '$MNT/boxes' && $command"
	assert "$rc" -eq 1 "exit status of the wrong configuration"
	assert "$err" has "$(sed -n 's/^bash: \(echo: write error.*\)/\1/p' "$README")" "what bash says of it"
	is web last_error "$(grep '^box "web": config' "$README")"
}

@test "a job" {
	python
	for sh in bash dash; do
		run_example "$sh" '### A job'
		assert "$out" = $'0\n42' "what it prints"
	done
	ok ls "$MNT/boxes"
	assert "$out" = '' "boxes that are left"
}

@test "an agent" {
	python
	printf 'echo working; echo done >/tmp/result.txt; exit 4\n' >"$W/task.py"
	for sh in bash dash; do
		rm -f "$W/result.txt"
		run_example "$sh" '### An agent'
		assert "$out" = $'working\n4' "what it prints"
		assert "$(<"$W/result.txt")" = "done" "the file that comes out"
	done
	ok ls "$MNT/boxes"
	assert "$out" = '' "boxes that are left"
}

@test "a service" {
	python
	mkdir "$W/site"
	echo fine >"$W/site/index.html"
	ok python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
	PORT=$out
	run_example bash '### A service'
	assert "$out" = healthy "what it prints"
	ok python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())' "http://localhost:$PORT/"
	assert "$out" = fine "what it serves"
	ok setpriv --reuid www-data --clear-groups "${ECHO[@]}" "$MNT/boxes/web/ctl" restart
	ok cat "$MNT/boxes/web/wait/healthy"
	ctl web kill
}
