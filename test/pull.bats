#!/usr/bin/env bats
#
# Images that are updated: images/ctl, the key pull, who keeps an image, and what info.json
# says that a container was made of.

load helpers

setup() {
	common_setup
	busybox_root "$W/root"
	start_registry
}

# publish N: busybox:latest says N from now on.
publish() {
	mkdir -p "$W/v$1"
	echo "$1" >"$W/v$1/version"
	push "$REG/app:latest" "$W/root" "$W/v$1" --cmd cat --cmd /version
}

images_ctl() { ok "${ECHO[@]}" "$MNT/images/ctl" "$1"; }

images_say() {
	ok cat "$MNT/images/last_error"
	assert "$out" =~ "$1" "images/last_error"
}

# json PATH EXPRESSION: out is what Python makes of a JSON file, as d.
json() {
	ok cat "$1"
	out=$(/usr/bin/python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$2" <<<"$out")
}

# says BOX TEXT: a run of the box says TEXT.
says() {
	ctl "$1" start
	rd "$1/wait/exit"
	rd "$1/log"
	assert "${out##*$'\n'}" = "$2" "what $1 says"
}

@test "a known reference is followed by pull, and by the key pull" {
	publish 1
	start_daemon
	box missing "image: docker://$REG/app"
	box newer "{image: 'docker://$REG/app', pull: newer}"
	box always "{image: 'docker://$REG/app', pull: always}"
	says missing 1
	publish 2
	says missing 1
	says always 2
	says missing 2
	publish 3
	says newer 3
	publish 4
	images_ctl "pull docker://$REG/app"
	images_say '^ok$'
	says missing 4
	list_images
	assert "$(wc -l <<<"$out")" -eq 4 "images"
	# The reference is the last one's alone.
	local name with=0
	for name in $out; do
		json "$MNT/images/$name/info.json" 'len(d["refs"])'
		with=$((with + out))
	done
	assert "$with" -eq 1 "images with a reference"
	ok cat "$MNT/events"
	grep -q " - command by=0:[0-9]* pull docker://$REG/app\$" <<<"$out" || fail "no command: $out"
	grep -q " - image ref=docker://$REG/app step=pulled name=app@[0-9a-f]\{12\} digest=$DIGEST\$" <<<"$out" || fail "no end of the pull: $out"

	# Without the registry.
	kill_tree "${JOB[registry]}"
	says missing 4
	says newer 4
	grep -q ' newer image step=kept name=app@' <(t cat "$MNT/boxes/newer/events") || fail "newer: $(t cat "$MNT/boxes/newer/events")"
	ctl_refused EIO always start
	is always status failed
	refused EIO "${ECHO[@]}" "$MNT/images/ctl" "pull docker://$REG/app"
	images_say "^image docker://$REG/app: "
	says missing 4

	# The next daemon knows the same.
	stop_daemon
	start_daemon
	says missing 4
	images_ctl prune
	list_images
	assert "$(wc -l <<<"$out")" -eq 1 "images after prune"
	says missing 4
	list_images
	name=$out
	ok cat "$MNT/images/$name/info.json"
	images_ctl 'prune all'
	refused ENOENT cat "$MNT/images/$name/info.json"
	list_images
	assert "$out" = '' "images after prune all"
}

@test "an image is kept for who runs on it and who has changes on it, and no other" {
	publish 1
	start_daemon
	local image="image: docker://$REG/app"$'\n'
	box idle "${image}command: ['true']"
	box writer "${image}command: [sh, -c, 'echo mine >/mine']"
	box runner "${image}command: [sleep, '600']"
	local name
	for name in idle writer runner; do
		ctl "$name" start
	done
	rd idle/wait/stopped
	rd writer/wait/stopped
	list_images
	local old=$out
	json "$MNT/images/$old/info.json" '" ".join(d["used_by"])'
	assert "$out" = 'runner writer' "used_by"
	refused EBUSY rmdir "$MNT/images/$old"
	images_say "^image $old is in use by box \"runner\", which runs on it\$"
	ctl runner kill
	refused EBUSY rmdir "$MNT/images/$old"
	images_say "^image $old is in use by box \"writer\", which has changes on it\$"

	publish 2
	images_ctl "pull docker://$REG/app"
	images_ctl prune
	list_images
	assert "$(wc -l <<<"$out")" -eq 2 "images, with the old one"
	# The same after a restart: it is the disk that says so.
	stop_daemon
	start_daemon
	refused EBUSY rmdir "$MNT/images/$old"
	images_say 'box "writer", which has changes on it$'
	ok rmdir "$MNT/boxes/writer"
	ok rmdir "$MNT/images/$old"

	# Who had only named it runs on the new one.
	ctl idle start
	rd idle/wait/exit
	assert "$out" -eq 0 "exit code of idle"
	json "$MNT/boxes/idle/info.json" 'd["effective"]["image_digest"]'
	assert "$out" = "$DIGEST" "digest"
}

@test "images/ctl refuses what is no command, and says so" {
	start_daemon
	local line
	for line in 'pull' 'pull a b' 'pull alpine' 'prune some' 'fetch x'; do
		refused EINVAL "${ECHO[@]}" "$MNT/images/ctl" "$line"
		images_say '(takes|must begin with|unknown command)'
	done
	images_ctl prune
	images_say '^ok$'
	refused ENOENT "${ECHO[@]}" "$MNT/images/ctl" "pull docker://$REG/none:1"
	images_say "^image docker://$REG/none:1: $REG does not have it\$"
	refused EACCES cat "$MNT/images/ctl"
	refused EPERM chmod 622 "$MNT/images/ctl"
	refused EACCES setpriv --reuid 65534 --regid 65534 --clear-groups "${ECHO[@]}" "$MNT/images/ctl" prune
	# Watchers see what it says.
	bg watch inotifywait -q -m -e modify --format %w%f "$MNT/images/last_error"
	await "the watch" 5 blocked_in_inotify
	refused EINVAL "${ECHO[@]}" "$MNT/images/ctl" fetch
	await "MODIFY" 5 grep -q last_error "$W/watch.out"
}

blocked_in_inotify() { grep -q inotify "/proc/${PID[watch]}/fdinfo/"* 2>/dev/null; }

@test "info.json says what a container was made of" {
	push "$REG/app:1" "$W/root" --entrypoint /bin/sh --entrypoint -c --cmd 'id -u; pwd' --user 33:34 --workdir /tmp
	start_daemon
	box x "{image: 'docker://$REG/app:1', env: {SECRET: hidden}}"
	json "$MNT/boxes/x/info.json" 'd["effective"], d["config"]["overlay"], d["config"]["pull"]'
	assert "$out" = "(None, True, 'missing')" "before"
	ctl x start
	rd x/wait/exit
	local want="['/bin/sh', '-c', 'id -u; pwd'] 33:34 /tmp $DIGEST"
	json "$MNT/boxes/x/info.json" 'print(*[d["effective"][k] for k in ("command", "user", "workdir", "image_digest")])'
	assert "${out%$'\n'*}" = "$want" "after"
	stop_daemon
	start_daemon
	json "$MNT/boxes/x/info.json" 'print(*[d["effective"][k] for k in ("command", "user", "workdir", "image_digest")])'
	assert "${out%$'\n'*}" = "$want" "to the next daemon"
	rd x/info.json
	[[ $out != *hidden* ]] || fail "it tells a secret"
	# And of a directory.
	configure x <<<"{rootfs: '$W/root', command: ['true'], overlay: false}"
	ctl x start
	rd x/wait/exit
	json "$MNT/boxes/x/info.json" 'd["effective"]["command"], d["effective"]["image_digest"], d["config"]["overlay"], d["config"]["pull"]'
	assert "$out" = "(['true'], None, False, None)" "of a directory"
	list_images
	ok rmdir "$MNT/images/$out"
	box h "command: ['true']"
	ctl h start
	json "$MNT/boxes/h/info.json" 'd["effective"], d["config"]["overlay"]'
	assert "$out" = "(None, False)" "of engine host"
}

@test "a file of docker login is taken as it is, and its helper is run" {
	start_daemon
	stop_daemon
	push "$REG/app:1" "$W/root" --cmd true
	mkdir "$W/helpers"
	cat >"$W/helpers/docker-credential-vault" <<-'E'
		#!/bin/sh
		read -r server
		echo "$1 $server" >>"$0.asked"
		echo "the vault is sealed"
		exit 1
	E
	chmod 755 "$W/helpers/docker-credential-vault"
	cat >"$W/login.json" <<-E
		{"auths": {"$REG": {}}, "credHelpers": {"$REG": "vault"}, "HttpHeaders": {"User-Agent": "Docker-Client"}, "currentContext": "default"}
	E
	PATH=$W/helpers:$PATH
	start_daemon --registry-config "$W/login.json"
	refused EIO "${ECHO[@]}" "$MNT/images/ctl" "pull docker://$REG/app:1"
	images_say "docker-credential-vault gives no credentials for $REG: .*the vault is sealed"
	assert "$(<"$W/helpers/docker-credential-vault.asked")" = "get $REG" "what the helper was asked"
	printf '%s\n' '#!/bin/sh' "echo '{\"Username\": \"u\", \"Secret\": \"p\"}'" >"$W/helpers/docker-credential-vault"
	images_ctl "pull docker://$REG/app:1"
	list_images
	assert "$out" =~ '^app@' "images"
}
