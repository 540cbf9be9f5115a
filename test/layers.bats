#!/usr/bin/env bats
#
# What images and their layers may be like, and what the store keeps of them.

load helpers

# one_layer TARGET [FLAG…]: an image of busybox alone, whose command goes on.
one_layer() {
	[[ -d $W/root ]] || busybox_root "$W/root"
	echo "was there" >"$W/root/note"
	push "$@" "$W/root"
}

GO_ON='command: [sh, -c, "echo up; exec sleep 1000"]'

# reads_note BOX: a file that nobody has looked at yet is read by an exec.
reads_note() {
	local e=$MNT/boxes/$1/exec/note
	ok mkdir "$e"
	ok sh -c 'exec /bin/echo "cat /note" >"$1"' sh "$e/cmd"
	ok cat "$e/wait/stopped"
	ok cat "$e/stdout"
	assert "$out" = "was there" "what $1 reads"
	ok rmdir "$e"
}

# layout DIR: an OCI layout, $W/DIR, of what standard input says; see layout.py.
layout() {
	feed /usr/bin/python3 "$BATS_TEST_DIRNAME/layout.py" "$W/$1"
	((rc == 0)) || fail "layout.py: $err"
}

# says BOX REF TEXT: a box of an image runs to its end and says that.
says() {
	box "$1" "image: '$2'"
	ctl "$1" start
	rd "$1/wait/exit"
	is "$1" log "$3"
	ok rmdir "$MNT/boxes/$1"
}

@test "layers of every form that is made are those of an image" {
	layout odd <<-'PY'
		base = layer(L().busybox())
		docker = "application/vnd.docker.image.rootfs.diff.tar.zstd"
		add(manifest([layer(L().busybox(), docker, zstd)], "echo docker", vendor="docker"), "zstd-docker")
		skipped = b"\x50\x2a\x4d\x18\x04\0\0\0size"
		add(manifest([layer(L().busybox().put("only-here"), "application/vnd.oci.image.layer.v1.tar+zstd", lambda b: skipped + zstd(b))], "echo frames"), "zstd-frames")
		a, b = layer(L().put("f", "a")), layer(L().put("f", "b").put("g", "b"))
		add(manifest([base, a, b, a], "cat /f /g"), "twice")
		add(manifest([base], "echo late", created="9999-12-31T23:59:59-01:00"), "late")
		add(manifest([base], "echo first", created="0000-01-01T00:00:00+01:00"), "early")
		add(manifest([base, L().dir("d").put("d/f", "low", mode=0o4755), L().hard("h", "d/f")], "cat /h; stat -c %h /h /d/f"), "hardlink")
	PY
	start_daemon
	says a "oci:$W/odd:zstd-docker" docker
	says b "oci:$W/odd:zstd-frames" frames
	says c "oci:$W/odd:twice" ab
	says d "oci:$W/odd:late" late
	says e "oci:$W/odd:early" first
	says f "oci:$W/odd:hardlink" $'low2\n2'
	# What is kept of them can be read.
	restart_daemon
	assert "$(t ls "$MNT/images" | grep -c '^odd@')" -eq 6 "images after a restart"
}

@test "whiteouts take away what is below, and are not seen" {
	layout white <<-'PY'
		low = L().busybox().dir("a").dir("a/b").dir("a/b/c").put("a/b/old", "old").put("a/b/c/old", "old")
		see = "cd /a && find . -type f"
		add(manifest([low, L().dir("a").put("a/.wh.b").dir("a/b").dir("a/b/c").put("a/b/c/d")], see), "entry")
		add(manifest([low, L().dir("a").put("a/.wh.b").put("a/b/c/d")], see), "none")
		add(manifest([low, L().put("a/.wh.b").put("a/b/d")], see), "below")
		add(manifest([
		    L().busybox().dir("low").put("low/.wh.gone").put("low/here").dir("d").put("d/a").put("d/c"),
		    L().dir("d").put("d/.wh..wh..opq").put("d/.wh.a").put("d/b").dir("own").put("own/.wh.never").put("own/y"),
		], "cd / && for d in low d own; do echo $d: $(ls $d); done; find low d own | wc -l"), "seen")
	PY
	start_daemon
	says a "oci:$W/white:entry" ./b/c/d
	says b "oci:$W/white:none" ./b/c/d
	says c "oci:$W/white:below" ./b/d
	says d "oci:$W/white:seen" $'low: here\nd: b\nown: y\n6'
}

@test "names in a layout have slashes and colons, and archives are compressed" {
	local name
	layout img <<-'PY'
		for n in "docker.io/library/one:1", "two:2", "3", "x:y//z":
		    add(manifest([L().busybox()], "echo " + n), n)
	PY
	mkdir "$W/img:docker.io"
	mv "$W/img" "$W/keep"
	cp -r "$W/keep" "$W/img"
	start_daemon
	for name in docker.io/library/one:1 two:2 3 x:y//z; do
		says box "oci:$W/img:$name" "$name"
		ok sh -c 'exec /bin/echo "pull $2" >"$1"' sh "$MNT/images/ctl" "oci:$W/img:$name"
	done
	# The next daemon knows them by these names, whatever the disk has then.
	mv "$W/img" "$W/away"
	restart_daemon
	ok sh -c 'exec /bin/echo prune >"$1"' sh "$MNT/images/ctl"
	for name in docker.io/library/one:1 two:2 3 x:y//z; do
		says box "oci:$W/img:$name" "$name"
	done
	mv "$W/away" "$W/img"
	ok ls "$MNT/images"
	[[ $out == *img@* && $out != *one@* ]] || fail "the names are not the layout's: $out"
	# A directory of such a name goes first.
	cp -r "$W/keep" "$W/img:two"
	says box "oci:$W/img:two:3" 3
	one_layer "docker-archive:$W/plain.tar" --cmd /bin/echo --cmd packed
	gzip -k "$W/plain.tar"
	zstd -q "$W/plain.tar"
	says gz "docker-archive:$W/plain.tar.gz" packed
	says zst "docker-archive:$W/plain.tar.zst" packed
	head -c 1000 "$W/plain.tar.gz" >"$W/cut.tar.gz"
	box cut "image: docker-archive:$W/cut.tar.gz"
	ctl_refused EIO cut start
	has_error cut 'the archive cannot be decompressed'
	assert "$(find "$STATE/images/tmp" -mindepth 1 | wc -l)" -eq 0 "files in tmp"
}

@test "a stop sends the signal of the image, unless the configuration has one" {
	local box
	layout stop <<-'PY'
		script = "trap 'exit 7' USR1 USR2 37; trap 'exit 8' TERM; echo up; while :; do sleep 0.1; done"
		for s in "SIGUSR1", "12", "RTMIN+3", "NONSENSE":
		    add(manifest([L().busybox()], script, {"StopSignal": s}), "s" + str(len(index)))
	PY
	start_daemon
	for box in s0 s1 s2 s3; do
		up $box "image: oci:$W/stop:$box"
	done
	up own "image: oci:$W/stop:s0"$'\n''stop: {signal: SIGTERM}'
	for box in s0 s1 s2 s3 own; do
		logs $box up
	done
	json s2 effective.stop_signal
	assert "$out" = 'signal 37' "stop signal of s2"
	json own effective.stop_signal
	assert "$out" = SIGTERM "stop signal of own"
	ctl s0 stop
	restart_daemon # the next one has it, too
	json s1 effective.stop_signal
	assert "$out" = SIGUSR2 "stop signal of s1"
	for box in s1 s2 s3 own; do
		ctl $box stop
	done
	for box in s0:7 s1:7 s2:7 s3:8 own:8; do
		is ${box%:*} exit_code ${box#*:}
	done
}

has_error() { grep -qF -- "$2" <<<"$(t cat "$MNT/boxes/$1/last_error")" || fail "last_error: $(t cat "$MNT/boxes/$1/last_error")"; }

# second_registry FLAG…: one more on loopback, at $OTHER.
second_registry() {
	bg second "$BOXLITE_BIN/registry" serve -listen 127.0.0.1:0 "$@"
	await "the second registry's address" 5 grep -q ':' "$W/second.out"
	OTHER=$(head -n 1 "$W/second.out")
}

@test "a registry that hangs holds up no box whose image has the same layers" {
	local layer
	start_registry
	one_layer "$REG/good:1" --cmd /bin/echo --cmd good
	py 'import json, sys, urllib.request as u
print(json.load(u.urlopen(sys.argv[1]))["layers"][0]["digest"])' "http://$REG/v2/good/manifests/1"
	layer=$out
	second_registry -hang "$layer"
	push "$OTHER/slow:1" "$W/root" --cmd /bin/echo --cmd slow
	start_daemon
	box slow "image: docker://$OTHER/slow:1"
	bg start "${ECHO[@]}" "$MNT/boxes/slow/ctl" start
	await "the layer to be asked for" 10 grep -q "GET .*$layer" "$W/second.out"
	says good "docker://$REG/good:1" good
	# And that layer will do for the other.
	join start
	assert "$rc" -eq 0 "exit status of the start of slow: $err"
	rd slow/wait/exit
	is slow log slow
}

@test "a registry cannot send the daemon to what only this host can reach" {
	local port own n flags=() places=()
	bg canary /usr/bin/python3 -uc 'import socket
s = socket.socket(); s.bind(("0.0.0.0", 0)); s.listen(); print(s.getsockname()[1])
while True:
    c, _ = s.accept(); print("a connection"); c.close()'
	await "the canary" 5 test -s "$W/canary.out"
	port=$(head -n 1 "$W/canary.out")
	own=$(hostname -I | tr ' ' '\n' | grep -F . | head -n 1)
	places=(LOCALHOST localhost localhost. 127.0.0.2 0.0.0.0 '[::ffff:127.0.0.1]' ${own:+"$own"})
	for n in "${!places[@]}"; do
		flags+=(-redirect "/a$n/blobs/=https://${places[n]}:$port/x")
	done
	second_registry "${flags[@]}"
	mkdir "$W/small"
	start_daemon
	for n in "${!places[@]}"; do
		push "$OTHER/a$n:1" "$W/small"
		box "a$n" "image: docker://$OTHER/a$n:1"
		ctl_refused EIO "a$n" start
		has_error "a$n" 'which is not allowed'
	done
	! grep -q 'a connection' "$W/canary.out" || fail "somebody has come: $(cat "$W/canary.out")"
	# It is one: whoever may go there does.
	py 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()' "$port"
	await "the canary to see one" 5 grep -q 'a connection' "$W/canary.out"
}

@test "an image that says too much of itself is refused, with the limit" {
	layout much <<-'PY'
		add(manifest([L()], "echo", {"Labels": {"a": "\x01" * 600000}}), "labels")
		add(manifest([L()], "echo", {"Env": ["A=" + "x" * 300000]}), "env")
		add(manifest([L()], "echo", history=[{"created_by": "x" * 2000000}]), "history")
	PY
	local name
	start_daemon
	for name in labels env history; do
		box $name "image: oci:$W/much:$name"
		ctl_refused EIO $name start
		has_error $name "its $name are"
		has_error $name 'at most'
	done
	ok ls "$MNT/images"
	[[ $out != *@* ]] || fail "an image is there: $out"
}

@test "an image of any path is still there for the next daemon" {
	local dir
	start_daemon
	for dir in -x .hidden 'a@b' plain; do
		one_layer "oci:$W/$dir:1"
	done
	up n1 "image: oci:$W/-x:1"$'\n'"$GO_ON"
	up n2 "image: oci:$W/.hidden:1"$'\n'"$GO_ON"
	up n3 "image: oci:$W/a@b:1"$'\n'"$GO_ON"
	ok ls "$MNT/images"
	local before=$out
	restart_daemon
	ok ls "$MNT/images"
	assert "$out" = "$before" images
	! find "$STATE/images" -name '*.bad' | grep . || fail "a record was not read back"
	for dir in n1 n2 n3; do
		reads_note "$dir"
	done
}

@test "layers that a box runs on outlive the image's record, and go after it" {
	one_layer "oci:$W/layout:1"
	start_daemon
	up web "image: oci:$W/layout:1"$'\n'"$GO_ON"
	stop_daemon
	for record in "$STATE"/images/images/*.json; do echo nonsense >"$record"; done
	start_daemon
	ok ls -A "$MNT/images"
	[[ $out != *@* ]] || fail "an image is there: $out"
	is web status running
	reads_note web
	# The next daemon finds them, too; and the image can come again beside them.
	restart_daemon
	reads_note web
	up again "image: oci:$W/layout:1"$'\n'"$GO_ON"
	reads_note again
	reads_note web
	assert "$(find "$STATE/images/held" -mindepth 1 -maxdepth 1 | wc -l)" -eq 1 "layers that are held"
	ctl web kill
	restart_daemon
	await "the layers of nobody to go" 5 sh -c '[ -z "$(find "$1/held" "$1/trash" -mindepth 1)" ]' sh "$STATE/images"
	reads_note again
}

@test "layers are kept where it is not known what a box has mounted" {
	one_layer "oci:$W/layout:1"
	start_daemon
	up web "image: oci:$W/layout:1"$'\n'"$GO_ON"
	stop_daemon
	for record in "$STATE"/images/images/*.json; do echo nonsense >"$record"; done
	rm "$STATE/boxes/web/shim.json"
	start_daemon
	reads_note web
	restart_daemon
	reads_note web
}

@test "an image that a box runs on is not removed, whatever the box's state says" {
	one_layer "oci:$W/layout:1"
	start_daemon
	up web "image: oci:$W/layout:1"$'\n'"$GO_ON"
	stop_daemon
	ok sed -i 's/"image":"sha256:[0-9a-f]*"/"image":"sha256:'"$(printf '%064d' 0)"'"/' "$STATE/boxes/web/state.json"
	grep -q 'sha256:0000' "$STATE/boxes/web/state.json" || fail "the state has no image: $(cat "$STATE/boxes/web/state.json")"
	start_daemon
	refused EBUSY rmdir "$MNT"/images/layout@*
	reads_note web
	ctl web kill
}
