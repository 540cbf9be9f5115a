#!/usr/bin/env bats
#
# The tree: which files there are, their modes, sizes and times, and what is
# refused.

load helpers

setup() {
	common_setup
	start_daemon
}

ROOT_FILES='boxes/
events
features
images/
images/ctl
images/last_error
last_error
metrics
version
wait/
wait/event'

BOX_FILES='config.yaml 640
ctl 200
events 444
exec 755
exit_code 444
health 444
info.json 444
last_error 444
log 444
pid 444
stats 444
status 444
wait 755
wait/event 444
wait/exit 444
wait/healthy 444
wait/log 444
wait/running 444
wait/stopped 444'

@test "the root has exactly the files of the contract" {
	ok sh -c 'cd "$1" && find . -mindepth 1 \( -type d -printf "%P/\n" -o -printf "%P\n" \) | sort' sh "$MNT"
	assert "$out" = "$ROOT_FILES" "files of the root"
	ok sh -c 'cd "$1" && stat -c "%n %a %F" boxes events features images images/ctl images/last_error last_error metrics version wait wait/event' sh "$MNT"
	assert "${out//regular empty file/regular file}" = 'boxes 755 directory
events 444 regular file
features 444 regular file
images 755 directory
images/ctl 200 regular file
images/last_error 444 regular file
last_error 444 regular file
metrics 444 regular file
version 444 regular file
wait 755 directory
wait/event 444 regular file' "modes of the root"
}

@test "a box has exactly the files of the contract, with their modes" {
	box x
	ok sh -c 'cd "$1" && find . -mindepth 1 -printf "%P %m\n" | sort' sh "$MNT/boxes/x"
	assert "$out" = "$BOX_FILES" "files of a box"
	ok stat -c '%a %U %G' "$MNT/boxes/x"
	assert "$out" = "755 root root" "the box's directory"
}

@test "a new box is empty and says so in every file" {
	box x
	is x status empty
	is x health none
	is x pid -1
	is x exit_code -1
	is x last_error ok
	is x log ''
	is x config.yaml ''
	assert "$(json x status)" = empty "info.json"
}

@test "version is one line with name, version, commit and go version" {
	ok cat "$MNT/version"
	assert "$out" =~ '^boxlited [^ ]+ [^ ]+ go[0-9.]+$' "version"
	assert "$(wc -l <"$W/out")" -eq 1 "lines of version"
}

@test "features is one word a line and has engine.host" {
	ok cat "$MNT/features"
	assert "$(grep -cvE '^[a-z0-9_.:-]+$' <"$W/out")" -eq 0 "lines that are not one word"
	grep -qx engine.host "$W/out" || fail "no engine.host in features: $out"
}

@test "every readable file ends in exactly one newline, and stat tells its real size" {
	script x <<<'echo hello; exit 3'
	ctl x start
	rd x/wait/stopped
	py 'import os, sys
bad = []
for d, dirs, files in os.walk(sys.argv[1]):
    if os.path.basename(d) == "wait":
        continue
    for f in files:
        p = os.path.join(d, f)
        if f == "ctl":
            continue
        size = os.stat(p).st_size
        data = open(p, "rb").read()
        if size != len(data) and f != "metrics":
            bad.append("%s: stat %d, read %d" % (p, size, len(data)))
        if not data.endswith(b"\n") or data.endswith(b"\n\n"):
            bad.append("%s: ends in %r" % (p, data[-3:]))
        if b"\0" in data:
            bad.append("%s: has a NUL" % p)
print("\n".join(bad))' "$MNT"
	assert "$out" = '' "sizes and ends"
}

@test "one file holds one value" {
	up x "$SLEEPER"
	local f
	for f in status health pid exit_code last_error; do
		rd "x/$f"
		assert "$(wc -l <"$W/out")" -eq 1 "lines of $f"
	done
	rd x/stats
	assert "$(grep -cvE '^[a-z_]+ [0-9]+$' <"$W/out")" -eq 0 "lines of stats that are not flat keyed"
}

@test "reads at any offset and of any length see the same text" {
	box x "$SLEEPER"
	ok dd if="$MNT/boxes/x/status" bs=1 status=none
	assert "$out" = configured "dd bs=1"
	ok dd if="$MNT/boxes/x/status" bs=1 skip=6 status=none
	assert "$out" = ured "dd skip"
	ok tail -c 5 "$MNT/boxes/x/status"
	assert "$out" = ured "tail -c"
	ok head -c 3 "$MNT/boxes/x/status"
	assert "$out" = con "head -c"
	ok sh -c 'read -r word <"$1" && echo "$word"' sh "$MNT/boxes/x/status"
	assert "$out" = configured "read of a shell"
}

@test "an open file is a snapshot: two reads never mix two states" {
	box x "$SLEEPER"
	py 'import os, sys
d = sys.argv[1]
fd = os.open(d + "/status", os.O_RDONLY)
a = os.read(fd, 4)
c = os.open(d + "/ctl", os.O_WRONLY)
os.write(c, b"start\n")
os.close(c)
b = os.read(fd, 100)
print((a + b).decode().strip(), open(d + "/status").read().strip())' "$MNT/boxes/x"
	assert "$out" = "configured running" "old and new descriptor"
}

@test "mtime is the time of the last change and moves with it" {
	local before after
	before=$(date +%s%N)
	box x "$SLEEPER"
	ok stat -c %Y "$MNT/boxes/x/status"
	assert "$out" -ge $((before / 1000000000 - 1)) "mtime of status"
	ok stat -c %y "$MNT/boxes/x/status" "$MNT/boxes/x/config.yaml"
	before=$out
	ctl x start
	ok stat -c %y "$MNT/boxes/x/status" "$MNT/boxes/x/config.yaml"
	after=$out
	assert "$(head -1 <<<"$after")" != "$(head -1 <<<"$before")" "mtime of status after start"
	assert "$(tail -1 <<<"$after")" = "$(tail -1 <<<"$before")" "mtime of config.yaml after start"
	ok stat -c %y "$MNT/boxes/x/status"
	assert "$out" = "$(head -1 <<<"$after")" "mtime of status without a change"
}

@test "a client never sees a stale status, size or listing" {
	local i
	box x 'command: ["true"]'
	for i in 1 2 3 4 5; do
		ctl x start
		rd x/wait/stopped
		is x status stopped
		ok sh -c 'stat -c %s "$1/events" && wc -c <"$1/events"' sh "$MNT/boxes/x"
		assert "$(head -1 <<<"$out")" = "$(tail -1 <<<"$out")" "size of events in round $i"
		box "y$i"
		ok ls "$MNT/boxes"
		assert "$out" =~ "y$i" "listing after mkdir"
		ok rmdir "$MNT/boxes/y$i"
		ok ls "$MNT/boxes"
		assert "$out" = x "listing after rmdir"
		refused ENOENT stat "$MNT/boxes/y$i"
	done
}

@test "link counts are real" {
	box x
	box y
	ok stat -c %h "$MNT/boxes" "$MNT/boxes/x" "$MNT/boxes/x/status"
	assert "$(xargs <<<"$out")" = "4 4 1" "nlink of boxes/, of a box and of a file"
}

@test "unlink, rename, create, symlink, link and mknod are refused with EPERM" {
	box x "$SLEEPER"
	local d
	for d in "$MNT" "$MNT/boxes/x" "$MNT/boxes/x/wait"; do
		refused EPERM touch "$d/new"
		refused EPERM mkdir "$d/new"
		refused EPERM ln -s status "$d/new"
		refused EPERM mknod "$d/new" p
		refused EPERM "${ECHO[@]}" "$d/new" text
	done
	refused EPERM touch "$MNT/boxes/new"
	refused EPERM ln -s status "$MNT/boxes/new"
	refused EPERM mknod "$MNT/boxes/new" p
	refused EPERM rm "$MNT/version"
	refused EPERM rm -f "$MNT/boxes/x/status"
	refused EPERM unlink "$MNT/boxes/x/config.yaml"
	refused EPERM ln "$MNT/boxes/x/status" "$MNT/boxes/x/new"
	refused EPERM mv "$MNT/boxes/x/status" "$MNT/boxes/x/log"
	refused EPERM mv "$MNT/boxes/x" "$MNT/boxes/y"
	refused EPERM rmdir "$MNT/wait"
	refused EPERM rmdir "$MNT/boxes/x/wait"
	refused EPERM,EBUSY rmdir "$MNT/boxes"
	refused ENOTDIR rmdir "$MNT/boxes/x/status"
	ok sh -c 'cd "$1" && find . -mindepth 1 -printf "%P %m\n" | sort' sh "$MNT/boxes/x"
	assert "$out" = "$BOX_FILES" "files afterwards"
	is x status configured
}

@test "what cannot be written refuses the open, and what cannot be read too" {
	box x
	local f
	for f in version events last_error boxes/x/status boxes/x/log boxes/x/info.json boxes/x/wait/running; do
		refused EACCES,EPERM "${ECHO[@]}" "$MNT/$f" text
	done
	refused EACCES,EPERM cat "$MNT/boxes/x/ctl"
	refused EACCES,EPERM,EINVAL truncate -s 0 "$MNT/boxes/x/status"
	is x status empty
}

@test "rm -rf of a box fails and leaves it whole" {
	up x "$SLEEPER"
	local pid
	pid=$(pid_of x)
	refused EPERM rm -rf "$MNT/boxes/x"
	is x status running
	is x pid "$pid"
	is x config.yaml "$SLEEPER"
	ctl x kill
	refused EPERM rm -rf "$MNT/boxes/x"
	is x status stopped
	is x config.yaml "$SLEEPER"
}

@test "names: letters, digits, dot, dash, underscore, up to 64, none leading with a mark" {
	local name
	for name in a 0 A9 web.example-1_x "$(printf 'x%.0s' {1..64})"; do
		box "$name"
		ok rmdir "$MNT/boxes/$name"
		ok cat "$MNT/last_error"
		assert "$out" = ok "last_error of the root after $name"
	done
	for name in .hidden -dash _under 'a b' 'a:b' 'ä' $'a\nb' "$(printf 'x%.0s' {1..65})"; do
		refused EINVAL mkdir -- "$MNT/boxes/$name"
	done
	ok ls -A "$MNT/boxes"
	assert "$out" = '' "boxes afterwards"
}

@test "a refused name is explained in the root's last_error" {
	refused EINVAL mkdir "$MNT/boxes/bad name"
	ok cat "$MNT/last_error"
	assert "$out" has 'bad name' "last_error names the name"
	assert "$(wc -l <"$W/out")" -eq 1 "lines of last_error"
	refused EINVAL mkdir "$MNT/boxes/"$'two\nlines'
	ok cat "$MNT/last_error"
	assert "$(wc -l <"$W/out")" -eq 1 "lines of last_error for a name of two lines"
}

@test "a box that exists is not made twice" {
	box x "$SLEEPER"
	refused EEXIST mkdir "$MNT/boxes/x"
	is x status configured
	ok mkdir -p "$MNT/boxes/x"
}

@test "what is not there is ENOENT" {
	refused ENOENT cat "$MNT/boxes/x/status"
	refused ENOENT rmdir "$MNT/boxes/x"
	refused ENOENT cat "$MNT/nothing"
	refused ENOENT cat "$MNT/boxes/.hidden/status"
}

@test "a descriptor that outlives its box reads ENODEV, a path gives ENOENT" {
	script x <<<'echo hello'
	ctl x start
	rd x/wait/stopped
	py 'import errno, os, sys
d = sys.argv[1]
names = ["status", "health", "pid", "exit_code", "last_error", "info.json", "stats", "log", "events", "config.yaml"]
fds = {n: os.open(os.path.join(d, n), os.O_RDONLY) for n in names}
ctl = os.open(d + "/ctl", os.O_WRONLY)
os.rmdir(d)
for n, fd in fds.items():
    try:
        os.read(fd, 10)
        print(n, "reads")
    except OSError as e:
        if e.errno != errno.ENODEV:
            print(n, e)
    try:
        os.open(os.path.join(d, n), os.O_RDONLY)
        print(n, "opens")
    except OSError as e:
        if e.errno != errno.ENOENT:
            print(n, e)
try:
    os.write(ctl, b"start\n")
    print("ctl writes")
except OSError as e:
    if e.errno != errno.ENODEV:
        print("ctl", e)' "$MNT/boxes/x"
	assert "$out" = '' "descriptors of a removed box"
}

@test "a box of the same name is another box" {
	up x "$SLEEPER"
	ctl x kill
	ok rmdir "$MNT/boxes/x"
	box x
	is x status empty
	is x exit_code -1
	is x log ''
	is x config.yaml ''
	refused ENODATA "${ECHO[@]}" "$MNT/boxes/x/ctl" start
}

@test "another user reads what is public, and nothing else" {
	up x "$SLEEPER"
	ok "${NOBODY[@]}" ls "$MNT/boxes/x"
	ok "${NOBODY[@]}" cat "$MNT/boxes/x/status" "$MNT/version"
	refused EACCES "${NOBODY[@]}" cat "$MNT/boxes/x/config.yaml"
	refused EACCES "${NOBODY[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	refused EACCES "${NOBODY[@]}" "${ECHO[@]}" "$MNT/boxes/x/config.yaml" "$SLEEPER"
	refused EACCES "${NOBODY[@]}" mkdir "$MNT/boxes/y"
	refused EACCES "${NOBODY[@]}" rmdir "$MNT/boxes/x"
	is x status running
	ok "${NOBODY[@]}" stat -c '%a' "$MNT" "$MNT/boxes" "$MNT/boxes/x" "$MNT/boxes/x/wait" "$MNT/wait"
	assert "$(xargs <<<"$out")" = "755 755 755 755 755" "modes that another user sees"
}

@test "no other file repeats the values of env" {
	up x "$(printf 'command: [sleep, infinity]\nenv: {TOKEN: s3cr3t-value}')"
	refused EACCES "${NOBODY[@]}" cat "$MNT/boxes/x/config.yaml"
	try "${NOBODY[@]}" grep -r -l s3cr3t-value "$MNT"
	assert "$out" = '' "files that another user can read and that hold the value"
	try grep -r -l s3cr3t-value "$MNT"
	assert "$out" = "$MNT/boxes/x/config.yaml" "files that hold the value"
}

@test "chown of ctl and of the directory delegates a box, and lasts" {
	box x "$SLEEPER"
	ok chown 65534:65534 "$MNT/boxes/x" "$MNT/boxes/x/ctl"
	ok chmod 0600 "$MNT/boxes/x/ctl"
	ok chown 65534 "$MNT/boxes/x/log"
	ok chmod 0400 "$MNT/boxes/x/log"
	ok "${NOBODY[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" start
	is x status running
	rd x/events
	assert "$out" =~ 'command by=65534:'[0-9]+' start' "who gave the command"
	restart_daemon
	ok stat -c '%n %a %u' "$MNT/boxes/x" "$MNT/boxes/x/ctl" "$MNT/boxes/x/log" "$MNT/boxes/x/status"
	assert "$out" = "$MNT/boxes/x 755 65534
$MNT/boxes/x/ctl 600 65534
$MNT/boxes/x/log 400 65534
$MNT/boxes/x/status 444 0" "owners and modes after a restart"
	ok "${NOBODY[@]}" cat "$MNT/boxes/x/log"
	ok "${NOBODY[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	is x status stopped
}

@test "config.yaml stays with its owner" {
	box x "$SLEEPER"
	ok chown 65534:65534 "$MNT/boxes/x"
	refused EPERM chown 65534 "$MNT/boxes/x/config.yaml"
	refused EPERM chmod 0666 "$MNT/boxes/x/config.yaml"
	ok stat -c '%a %u' "$MNT/boxes/x/config.yaml"
	assert "$out" = "640 0" "mode and owner of config.yaml"
	refused EACCES "${NOBODY[@]}" "${ECHO[@]}" "$MNT/boxes/x/config.yaml" "$SLEEPER"
	refused EACCES,EPERM "${NOBODY[@]}" sh -c 'rm -f "$1"' sh "$MNT/boxes/x/config.yaml"
}

@test "chown and chmod need the right to" {
	box x "$SLEEPER"
	refused EPERM "${NOBODY[@]}" chown 65534 "$MNT/boxes/x/ctl"
	refused EPERM "${NOBODY[@]}" chmod 0666 "$MNT/boxes/x/ctl"
}
