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
