#!/usr/bin/env bats
#
# The tools that people have, against one mount.

load helpers

setup() {
	common_setup
	start_daemon
}

# life SHELL…: a whole life of a box, by the builtins of a shell.
life() {
	local name
	name=$(tr -c '[:alnum:]\n' - <<<"$*")
	ok "$@" -c 'set -e
cd "$1"
mkdir "$2"
cat >"$2/config.yaml" <<E
command: [sh, -c, "echo hello; exec sleep infinity"]
E
read -r s <"$2/status"; echo "$s"
echo start >"$2/ctl"
cat "$2/wait/running"
read -r s <"$2/status"; echo "$s"
if echo bogus >"$2/ctl"; then echo accepted; fi 2>"$3"
printf "hostname: h\n" >>"$2/config.yaml"
echo kill >"$2/ctl"
read -r s <"$2/exit_code"; echo "$s"
rmdir "$2"' sh "$MNT/boxes" "$name" "$W/bogus"
	assert "$out" = $'configured\nrunning\nrunning\n137' "life by $*"
}

@test "bash, dash and busybox sh drive a box" {
	life bash
	life dash
	life busybox sh
	life bash --posix
}

@test "ksh and zsh, where they are, drive a box" {
	local sh
	for sh in ksh zsh; do
		! type -P "$sh" >/dev/null || life "$sh"
	done
	life sh
}

@test "the tools of busybox read and write" {
	box x
	ok busybox sh -c 'busybox printf "%s\n" "$2" | busybox tee "$1/config.yaml" && busybox cat "$1/status"' sh "$MNT/boxes/x" "$SLEEPER"
	assert "$out" = "$SLEEPER
configured" "tee and cat"
	ok busybox grep -r configured "$MNT/boxes/x/status"
	ok busybox find "$MNT" -type f
	ok busybox tail -n 1 "$MNT/boxes/x/status"
	ok busybox stat "$MNT/boxes/x/status"
	ok busybox cp "$MNT/boxes/x/config.yaml" "$W/copy"
	assert "$(<"$W/copy")" = "$SLEEPER" "cp"
}

@test "python drives a box" {
	py 'import os, pathlib, sys
b = pathlib.Path(sys.argv[1]) / "p"
b.mkdir()
(b / "config.yaml").write_text("command: [sh, -c, \"echo hello; exit 7\"]\n")
(b / "ctl").write_text("start\n")
print((b / "wait/stopped").read_text().strip(), (b / "log").read_text().strip())
try:
    (b / "ctl").write_text("bogus\n")
except OSError as e:
    print(e.strerror)
(b / "config.yaml").write_text("command: [no-such-command]\n")
try:
    (b / "ctl").write_text("start\n")
except OSError as e:
    print(e.strerror)
print((b / "status").read_text().strip())
b.rmdir()' "$MNT/boxes"
	assert "$out" = "7 hello
${ERRNO_TEXT[EINVAL]}
${ERRNO_TEXT[EIO]}
failed" "python"
}

@test "perl drives a box" {
	ok perl -e 'use strict; my $b = "$ARGV[0]/p";
sub put { my ($f, $t) = @_; open my $h, ">", "$b/$f" or die "$f: $!"; print $h $t; close $h or die "$f: $!\n" }
sub get { open my $h, "<", "$b/$_[0]" or die $!; local $/; my $t = <$h>; $t =~ s/\n\z//; $t }
mkdir $b or die $!;
put("config.yaml", "command: [sh, -c, \"exit 7\"]\n");
put("ctl", "start\n");
print get("wait/stopped"), "\n";
eval { put("ctl", "bogus\n") }; print $@;
rmdir $b or die $!' "$MNT/boxes"
	assert "$out" = "7
ctl: ${ERRNO_TEXT[EINVAL]}" "perl"
}

@test "cp, cat, head, wc, sort, cmp and sha256sum read whole files" {
	script x <<<'seq 1 5000'
	ctl x start
	rd x/wait/stopped
	ok cp "$MNT/boxes/x/log" "$W/log"
	seq 1 5000 | cmp - "$W/log"
	ok cmp "$MNT/boxes/x/log" "$W/log"
	ok sort -n -o "$W/sorted" "$MNT/boxes/x/log"
	cmp "$W/sorted" "$W/log"
	ok wc -c "$MNT/boxes/x/log"
	assert "${out%% *}" = "$(stat -c %s "$W/log")" "wc"
	ok sha256sum "$MNT/boxes/x/log"
	assert "${out%% *}" = "$(sha256sum <"$W/log" | cut -d' ' -f1)" "sha256sum"
	ok dd if="$MNT/boxes/x/log" of="$W/dd" bs=4096 skip=1 count=2 status=none
	cmp "$W/dd" <(dd if="$W/log" bs=4096 skip=1 count=2 status=none)
	py 'import mmap, sys
f = open(sys.argv[1], "rb")
try:
    m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    print(m[:2])
except OSError:
    print(f.read(2))' "$MNT/boxes/x/log"
	assert "$out" = "b'1\\n'" "mmap or read"
}

@test "find, tree, ls -lR and du walk the tree" {
	box x "$SLEEPER"
	box y
	ok find "$MNT" -type f -name status
	assert "$(sort <<<"$out")" = "$MNT/boxes/x/status
$MNT/boxes/y/status" "find"
	ok find "$MNT" -newermt '-1 minute' -name config.yaml -size +0
	assert "$out" = "$MNT/boxes/x/config.yaml" "find by time and size"
	ok find "$MNT" -perm 0200
	assert "$(wc -l <<<"$out")" -eq 3 "find by mode: two boxes, and images"
	ok tree "$MNT"
	assert "$out" =~ 'config.yaml' "tree"
	ok ls -laR "$MNT"
	ok du -s "$MNT"
	ok stat -f "$MNT"
	ok df "$MNT"
}

@test "tar and rsync copy all but what blocks" {
	script x <<<'echo hello; exit 3'
	ctl x start
	rd x/wait/stopped
	mkdir "$W/tar" "$W/rsync"
	ok sh -c 'tar -C "$1" --exclude wait --exclude ctl -cf "$2/all.tar" boxes version features && tar -C "$2/tar" -xf "$2/all.tar"' sh "$MNT" "$W"
	assert "$err" = '' "what tar says"
	assert "$(<"$W/tar/boxes/x/exit_code")" = 3 "exit_code in the archive"
	ok cmp "$MNT/boxes/x/log" "$W/tar/boxes/x/log"
	ok rsync -a --exclude wait --exclude ctl "$MNT/boxes/" "$W/rsync/"
	ok diff -r --exclude wait --exclude ctl "$MNT/boxes" "$W/rsync"
	ok rsync -a --exclude wait --exclude ctl "$MNT/boxes/" "$W/rsync/"
}

@test "rsync writes a config in place, and is refused otherwise" {
	box x
	echo "$SLEEPER" >"$W/config.yaml"
	ok rsync --inplace "$W/config.yaml" "$MNT/boxes/x/config.yaml"
	is x config.yaml "$SLEEPER"
	is x status configured
	try rsync -I "$W/config.yaml" "$MNT/boxes/x/config.yaml"
	assert "$rc" -ne 0 "status of rsync without --inplace"
	is x config.yaml "$SLEEPER"
}

@test "grep -r finds, and does not hang" {
	up x "$SLEEPER"
	try grep -rl running "$MNT/boxes"
	assert "$out" has "$MNT/boxes/x/status" "files"
}

@test "while read follows events line by line" {
	box x "$SLEEPER"
	bg follow bash -c 'while read -r seq time box event detail; do
	echo "$box $event $detail"; [[ $detail == *to=running* ]] && exit 0; done <"$1"' sh "$MNT/wait/event"
	await_blocked follow
	ctl x start
	join follow 5
	assert "$rc" -eq 0 "status"
	assert "$(tail -1 <<<"$out")" =~ '^x status .*to=running' "last line"
}

@test "an editor and a shell at the same config do not spoil each other" {
	box x "$SLEEPER"
	HOME=$W bg vim vim -es -u NONE -i NONE -n -c '%s/infinity/100/' -c 'sleep 300m' -c wq "$MNT/boxes/x/config.yaml"
	configure x <<<'command: [sleep, "200"]'
	assert "$rc" -eq 0 "write beside vim"
	join vim 10
	rd x/config.yaml
	assert "$out" =~ '^command: \[sleep, (100|"200")\]$' "config"
	is x status configured
}
