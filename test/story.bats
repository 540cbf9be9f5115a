#!/usr/bin/env bats
#
# Containers from images: pulled, run, entered, filled, stopped, started, removed.

load helpers
load containers

setup() {
	common_setup
	busybox_root "$W/root"
	printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'web:x:33:34::/srv:/bin/sh' >"$W/root/etc/passwd"
	mkdir "$W/root/srv" "$W/upper"
	echo one >"$W/root/srv/one"
	chown 33:34 "$W/root/srv"
	echo two >"$W/upper/two"
	mkdir -p "$W/upper/srv"
	chown 33:34 "$W/upper/srv"
	: >"$W/upper/srv/.wh.one"
	echo three >"$W/upper/srv/three"
}

# image_dir: the one image that there is.
image_dir() {
	list_images
	assert "$(wc -w <<<"$out")" -eq 1 "images"
	IMG=$MNT/images/$out
}

# no_files_of_images: what was removed is deleted after the rmdir, which does not wait for that.
no_files_of_images() { [[ -z $(find "$STATE/images" -type f) ]]; }

new_exec() {
	ok mkdir "$MNT/boxes/$1/exec/$2"
	ok sh -c 'exec cat >"$1" <<-E
		$2
	E' sh "$MNT/boxes/$1/exec/$2/cmd" "$3"
}

story() {
	local box=$RT-story
	box "$box" "image: docker://$REG/app:1"$'\n'"runtime: $RT"$'\nenv: {B: box}\nstop: {timeout: 20s}'
	ctl "$box" start
	rd "$box/wait/healthy"
	logs "$box" 'started as 33 in /srv with image box'
	image_dir
	ok cat "$IMG/info.json"
	[[ $out == *"\"$box\""* && $out == *"$DIGEST"* && $out == *"$REG/app:1"* ]] || fail "info.json: $out"
	refused EBUSY rmdir "$IMG"
	ok cat "$MNT/last_error"
	[[ $out == *"$box"* ]] || fail "last_error: $out"

	new_exec "$box" e2 '{command: [sh, -c, "id -u; cat /two /srv/three; ls /srv; echo mine >/srv/kept"]}'
	rd "$box/exec/e2/stdout"
	assert "$out" = $'33\ntwo\nthree\nthree' "what the image has"
	is "$box" exec/e2/exit_code 0

	echo given >"$W/given"
	ok cp "$W/given" "$MNT/boxes/$box/root/srv/given"
	ok cp "$MNT/boxes/$box/root/srv/kept" "$W/taken"
	assert "$(<"$W/taken")" = mine "what came out"

	ctl "$box" stop
	is "$box" exit_code 4
	refused EBUSY rmdir "$IMG"
	ctl "$box" start
	logs "$box" 'started as' 2
	new_exec "$box" e3 '{command: [cat, /srv/kept, /srv/given]}'
	rd "$box/exec/e3/stdout"
	assert "$out" = $'mine\ngiven' "what lasted"
	ctl "$box" kill
	ok rmdir "$MNT/boxes/$box"
	await "its cgroups to be gone" 5 no_groups_of_boxes
	ok rmdir "$IMG"
	list_images
	assert "$out" = "" "images"
	await "the files of the image to be deleted" 10 no_files_of_images
}
@test "pull, run, exec, cp, stop, start, rmdir" {
	start_registry
	push "$REG/app:1" "$W/root" "$W/upper" --entrypoint /bin/sh --entrypoint -c --entrypoint 'echo "started as $(id -u) in $PWD with $A $B"; trap "exit 4" TERM; while :; do sleep 0.1; done' \
		--env A=image --env B=image --user web --workdir /srv
	start_daemon
	both story
}

@test "boxes that start at once pull an image once, and share it" {
	start_registry
	push "$REG/app:1" "$W/root" "$W/upper" --cmd sleep --cmd 1000
	start_daemon
	: >"$W/registry.out.mark"
	local before n
	before=$(grep -c '^GET .*/blobs/' "$W/registry.out" || :)
	for n in 1 2 3 4 5; do
		box "b$n" "image: docker://$REG/app:1"
		bg "start$n" "${ECHO[@]}" "$MNT/boxes/b$n/ctl" start
	done
	for n in 1 2 3 4 5; do
		join "start$n" 30
		assert "$rc" -eq 0 "start of b$n: $(t cat "$MNT/boxes/b$n/last_error")"
		is "b$n" status running
	done
	# The configuration and two layers.
	assert "$(($(grep -c '^GET .*/blobs/' "$W/registry.out") - before))" -eq 3 "blobs that were fetched"
	image_dir
	json_file "$IMG/info.json" used_by
	assert "$out" = "['b1', 'b2', 'b3', 'b4', 'b5']" "used_by"
}

json_file() {
	ok cat "$1"
	out=$(/usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2" <<<"$out")
}

@test "a pull tells how far it is, and a stop ends it" {
	start_registry -hang '/blobs/'
	push "$REG/app:1" "$W/root" --cmd sleep --cmd 1000
	start_daemon
	box x "image: docker://$REG/app:1"
	bg start "${ECHO[@]}" "$MNT/boxes/x/ctl" start
	becomes x status starting
	await "the pull to be told" 10 eval '[[ $(t cat "$MNT/boxes/x/info.json") == *"\"detail\": \"image: "* ]]'
	rd x/events
	grep -q ' image step=' <<<"$out" || fail "events: $out"
	ctl x stop
	is x status stopped
	join start
	assert "$rc" -ne 0 "status of the start"
	rd x/info.json
	[[ $out == *'"detail": null'* ]] || fail "detail: $out"
	list_images
	assert "$out" = "" "images"
	# So does the end of the daemon.
	bg start "${ECHO[@]}" "$MNT/boxes/x/ctl" start
	becomes x status starting
	stop_daemon
	assert "$DAEMON_RC" -eq 0 "status of the daemon"
}

@test "what is wrong with an image is told" {
	start_registry
	push "$REG/none:1" "$W/root"
	start_daemon
	box a "image: docker://$REG/nothing:1"
	ctl_refused EIO a start
	rd a/last_error
	[[ $out == *"nothing"* ]] || fail "last_error: $out"
	box b "image: docker://$REG/none:1"
	ctl_refused EIO b start
	rd b/last_error
	[[ $out == *"add command"* ]] || fail "last_error: $out"
	box c "image: docker://$REG/none@sha256:$(printf '0%.0s' {1..64})"$'\ncommand: [ls]'
	ctl_refused EIO c start
	box d
	configure d <<<'image: alpine'
	assert "$rc" -ne 0 "status of a bad reference"
	rd d/last_error
	[[ $out == *"line 1: image"*"did you mean docker://alpine"* ]] || fail "last_error: $out"
}

@test "layouts and archives, entrypoint and command" {
	push "oci:$W/layout:1" "$W/root" --entrypoint /bin/echo --entrypoint entry --cmd cmd
	push "docker-archive:$W/file.tar" "$W/root" --entrypoint /bin/echo --entrypoint entry --cmd cmd
	start_daemon
	local n=0 image more want
	while IFS='|' read -r image more want; do
		box "b$((++n))" "image: $image"$'\n'"${more//#/$'\n'}"
		ctl "b$n" start
		rd "b$n/wait/exit"
		is "b$n" log "$want"
	done <<-E
		oci:$W/layout:1||entry cmd
		oci:$W/layout|command: [mine]|entry mine
		docker-archive:$W/file.tar|entrypoint: [/bin/echo, other]|other
		docker-archive:$W/file.tar|command: [/bin/echo, bare]#entrypoint: []|bare
	E
}
