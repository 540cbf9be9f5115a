#!/usr/bin/env bats
#
# images/, as far as no box runs one, and --registry-config.

load helpers

@test "images/ is empty at first, and refuses what is not offered" {
	start_daemon
	ok ls -A "$MNT/images"
	assert "$out" = $'ctl\nlast_error' "images"
	ok stat -c '%a %h %U %F' "$MNT/images"
	assert "$out" = '755 2 root directory' "stat of images/"
	refused EPERM mkdir "$MNT/images/x"
	refused EPERM touch "$MNT/images/x"
	refused EPERM ln -s a "$MNT/images/x"
	refused EPERM mkfifo "$MNT/images/x"
	refused EPERM mv "$MNT/images" "$MNT/other"
	refused EPERM rmdir "$MNT/images"
	refused EPERM chmod 777 "$MNT/images"
	refused ENOENT rmdir "$MNT/images/busybox@0123456789ab"
	refused ENOENT cat "$MNT/images/busybox@0123456789ab/info.json"
	refused EPERM rm -rf "$MNT/images"
}

@test "images/ is others' to read and nobody's to change" {
	start_daemon
	ok setpriv --reuid 65534 --regid 65534 --clear-groups ls "$MNT/images"
	refused EPERM,EACCES setpriv --reuid 65534 --regid 65534 --clear-groups mkdir "$MNT/images/x"
	refused EACCES,ENOENT setpriv --reuid 65534 --regid 65534 --clear-groups rmdir "$MNT/images/x"
}

@test "a new daemon clears away what a pull has left half done" {
	start_daemon
	stop_daemon
	mkdir -p "$STATE/images/tmp/half/layer" "$STATE/images/layers/sha256/nobodys"
	start_daemon
	await "the store to be clean" 5 sh -c '[ -z "$(ls -A "$1/tmp" "$1/trash" "$1/layers/sha256" | grep -v :)" ]' sh "$STATE/images"
	assert "$(stat -c %a "$STATE/images")" = 700 "mode of the store"
}

@test "a record that makes no sense is kept aside, and the daemon starts" {
	start_daemon
	stop_daemon
	echo '{"version": 1, "name": "../../x"}' >"$STATE/images/images/0.json"
	start_daemon
	list_images
	assert "$out" = '' "images"
	[[ -e $STATE/images/images/0.bad ]] || fail "the record is gone"
}

@test "a registry configuration that is wrong keeps the daemon from starting" {
	local text
	for text in '{"auths": {"r.example": {"auth": "c2VjcmV0"}}}' '{"credsStore": "../x"}' 'nonsense' ''; do
		echo "$text" >"$W/registry.json"
		launch_daemon --registry-config "$W/registry.json"
		await_daemon
		assert "$DAEMON_RC" -eq 2 "exit status with $text"
		grep -q -- "--registry-config: registry configuration $W/registry.json: " "$LOG" || fail "it says: $(cat "$LOG")"
		! grep -q 'c2VjcmV0\|secret' "$LOG" || fail "it tells a secret: $(cat "$LOG")"
		: >"$LOG"
	done
	launch_daemon --registry-config "$W/none"
	await_daemon
	assert "$DAEMON_RC" -eq 2 "exit status without a file"
	echo '{"auths": {"r.example": {"auth": "dTpw"}}, "insecure-registries": ["10.0.0.1:5000"]}' >"$W/registry.json"
	start_daemon --registry-config "$W/registry.json"
}

@test "the helpers make a registry, layouts and archives" {
	start_registry
	busybox_root "$W/root"
	push "$REG/busybox:1" "$W/root" --entrypoint /bin/busybox --cmd sh --env A=b --user 1:2 --workdir /tmp
	assert "$DIGEST" =~ '^sha256:[0-9a-f]{64}$' "digest"
	grep -q '^PUT /v2/busybox/manifests/1$' "$W/registry.out" || fail "nothing was pushed"
	push "oci:$W/layout:1" "$W/root"
	[[ -s $W/layout/index.json ]] || fail "no layout"
	push "docker-archive:$W/file.tar" "$W/root"
	tar -tf "$W/file.tar" manifest.json >/dev/null || fail "no archive"
}

@test "a word in images/last_error is no change of the images" {
	start_daemon
	ok stat -c %y "$MNT/images"
	local before=$out
	bg watch inotifywait -m --format '%w %e %f' "$MNT/images" "$MNT/images/last_error"
	await "the watches" 5 grep -q 'Watches established' "$W/watch.err"
	refused EINVAL "${ECHO[@]}" "$MNT/images/ctl" nonsense
	await "the event of last_error" 5 grep -q 'last_error MODIFY' "$W/watch.out"
	! grep ISDIR <(grep MODIFY "$W/watch.out") || fail "the directory is said to have changed"
	ok stat -c %y "$MNT/images"
	assert "$out" = "$before" "when images/ has changed"
	# An image that comes is one.
	mkdir "$W/layer"
	push "oci:$W/layout" "$W/layer" --cmd /x
	ok "${ECHO[@]}" "$MNT/images/ctl" "pull oci:$W/layout"
	await "the event of images/" 5 eval 'grep MODIFY "$W/watch.out" | grep -q ISDIR'
	ok stat -c %y "$MNT/images"
	[[ $out > $before ]] || fail "images/ has not changed"
}
