#!/usr/bin/env bats
#
# boxes/X/root: the way to the files of a box that runs, and what a hostile box
# can make of it.
#
# The boxes are those of engine host, whose files a test build offers too. Host and
# box are told apart by a directory that has other files in the box: $OUT is the
# host's, and in the box $IN is mounted on it.

# Where go is: helpers has a PATH of its own.
export GO_PATH=${GO_PATH:-$PATH}

load helpers

setup_file() {
	export BOXLITE_BIN=$BATS_FILE_TMPDIR/bin
	(cd "$BATS_TEST_DIRNAME/.." && PATH=$GO_PATH CGO_ENABLED=0 go build -tags faults -ldflags "-X main.commit=bats" -o "$BOXLITE_BIN/" ./cmd/...)
}

setup() {
	common_setup
	export BOXLITE_ROOT_OF_HOST=1
	IN=$W/in OUT=$W/out.d SRC=$W/src
	mkdir "$IN" "$OUT" "$SRC"
	echo host >"$OUT/f"
	touch -d '2020-02-02 02:02:02' "$OUT/f" "$OUT"
	echo box >"$IN/f"
	start_daemon
}

# hostile BOX [SCRIPT]: a box with a tmpfs on /mnt that runs a shell script there. R is
# its root/, and D what it has on /mnt.
hostile() {
	R=$MNT/boxes/$1/root D=$MNT/boxes/$1/root/mnt
	# shellcheck disable=SC2016 # it is the box that expands it
	{
		echo 'mount -t tmpfs -o mode=755 none /mnt && cd /mnt || exit 9'
		printf '%s\n' "${2:-}" 'echo ready; exec sleep infinity'
	} | script "$1" "mounts: [{source: $IN, target: $OUT}]"
	ctl "$1" start
	logs "$1" ready
}

# inside BOX CMD…: runs CMD where the box's command sees its files.
inside() {
	local pid
	pid=$(box_command "$(pid_of "$1")")
	shift
	ok nsenter -t "$pid" -m -r -w "$@"
}

# untouched: the host's directory is as it was.
untouched() {
	assert "$(ls -A "$OUT")" = f "files of the host's directory"
	assert "$(<"$OUT/f")" = host "the host's file"
	assert "$(stat -c %Y "$OUT" "$OUT/f" | uniq)" -eq 1580608922 "times of the host's files"
}

@test "no two files of the tree have one inode number" {
	hostile x
	box y
	ok mkdir "$MNT/boxes/x/exec/e1" "$MNT/boxes/x/exec/e2"
	ok find "$MNT" -printf '%i %p\n'
	local all=$out
	ok stat -c '%i %n' "$R"
	all+=$'\n'$out
	assert "$(wc -l <<<"$all")" -gt 60 "files of the tree"
	assert "$(awk 'seen[$1] {print seen[$1], $2} {seen[$1] = $2}' <<<"$all")" = '' "files with the number of another"
}

@test "root/ has the box's files, and lets in nobody but root" {
	hostile x
	# Who looks at boxes does not look at their files.
	ok ls -l "$MNT/boxes/x" "$R/.."
	no_box_fds || fail "the daemon has descriptors of the box's files: $(ls -l "/proc/$DAEMON/fd")"
	ok cat "$R$OUT/f"
	assert "$out" = box "the box's file"
	ok stat -c '%a %U %G %F' "$R"
	assert "$out" = '700 root root directory' "root/"
	# What walks the tree does not get in: an rm -rf of a box leaves it whole.
	ok ls -A "$MNT/boxes/x"
	assert "$out" !~ root "files of the box"
	try rm -rf "$MNT/boxes/x"
	assert "$rc" -ne 0 "status of rm -rf of a box"
	try chmod -R u+s "$MNT/boxes/x"
	assert "$(<"$IN/f") $(stat -c %a "$IN/f")" = 'box 644' "the box's file and mode"
	refused EACCES "${NOBODY[@]}" ls "$R"
	# Who may drive a box has no business in its files.
	ok chown nobody "$MNT/boxes/x" "$MNT/boxes/x/ctl"
	refused EACCES "${NOBODY[@]}" ls "$R"
	refused EACCES "${NOBODY[@]}" cat "$R/etc/hostname"
	untouched
}

@test "without a run there is none, and for engine host without the test there is none at all" {
	box x "$SLEEPER"
	refused ESRCH ls "$MNT/boxes/x/root"
	ok ls "$MNT/boxes/x"
	assert "$out" !~ root "files of a box that does not run"
	box empty
	refused ENOENT ls "$MNT/boxes/empty/root"
	ctl x start
	ok ls "$MNT/boxes/x/root"
	unset BOXLITE_ROOT_OF_HOST
	restart_daemon
	is x status running
	refused ENOENT ls "$MNT/boxes/x/root"
	ok ls "$MNT/boxes/x"
	assert "$out" !~ root "files of a box of engine host"
}

@test "a symbolic link leads to the box's file, whatever it says" {
	hostile x "mkdir -p a/b; ln -s $OUT/f abs; ln -s $OUT dir; ln -s ../../../../../../../../$OUT/f a/b/up
		ln -s a/b/up rel; ln -s /mnt/loop loop; ln -s /proc/self/root magic; ln -s /proc/1/cwd/etc cwd; ln -s a/./b/..//b/up odd"
	local link
	for link in abs dir/f a/b/up rel odd; do
		ok cat "$D/$link"
		assert "$out" = box "$link"
	done
	refused ENOENT cat "$D/magic/etc/hostname"
	refused ENOENT ls "$D/cwd/"
	try cat "$D/loop"
	assert "$err" has 'Too many levels of symbolic links' "a loop"
	# What a program that follows links by itself reads has no way out.
	ok find "$D" -type l -printf '%l\n'
	assert "$(grep -cE '^/|(^|/)\.\.(/|$)' "$W/out")" -eq 0 "texts that lead out: $out"
	assert "$(wc -l <"$W/out")" -eq 8 "links"
	untouched
}

@test "what is written to a dangling link is made in the box" {
	hostile x "ln -s $OUT/new1 abs; ln -s ../../../..$OUT/new2 up; ln -s /nowhere/x none"
	echo text >"$SRC/text"
	# GNU cp does not write through such a link at all; others do.
	try cp "$SRC/text" "$D/abs"
	assert "$rc" -ne 0 "status of cp"
	ok busybox cp "$SRC/text" "$D/abs"
	ok sh -c 'cat "$1" >"$2"' sh "$SRC/text" "$D/up"
	refused ENOENT tee "$D/none"
	ok cp -r "$SRC" "$R$OUT/copied"
	ok mv "$R$OUT/new1" "$R$OUT/moved"
	assert "$(cd "$IN" && echo *)" = 'copied f moved new2' "what is in the box now"
	ok rm -rf "$D/abs" "$D/up" "$R$OUT/copied"
	assert "$(cd "$IN" && echo *)" = 'f moved new2' "what is in the box after rm -rf of links"
	untouched
}

@test "links that are made through root/ say what was meant, and copies are exact" {
	hostile x "ln -s $OUT/f abs; ln -s ../mnt/abs up; mkdir d; ln -s .. d/up; ln -s / d/root"
	ok cp -a "$D/abs" "$D/up" "$D/d" "$R$OUT/"
	assert "$(readlink "$IN/abs" "$IN/up" "$IN/d/up" "$IN/d/root" | paste -sd' ')" = "$OUT/f ../mnt/abs .. /" "copies within the box"
	ok ln -s /etc/x "$R$OUT/ln1"
	ok ln -s ../x "$R$OUT/ln2"
	assert "$(readlink "$IN/ln1" "$IN/ln2" | paste -sd' ')" = '/etc/x ../x' "links that were made"
	# Files with these names in the box can't be reached, and are no way to anything else.
	inside x sh -c 'mkdir n; cd n; echo x >.@; mkdir ..@; ln -s .@ l; ln -s ..@/x m'
	ok ls -A "$D/n"
	assert "$out" = $'l\nm' "what is listed beside reserved names"
	ok ls "$D/n/.@"
	assert "$out" has etc "what .@ leads to"
	try cat "$D/n/l" "$D/n/m"
	assert "$(grep -c 'symbolic links' "$W/err")" -eq 2 "links to reserved names: $err"
	refused EPERM rmdir "$D/n/..@"
	refused EEXIST,EPERM mkdir "$D/n/.@"
	ok rm "$D/n/l" "$D/n/m"
	inside x rm -r n
	# On the host they lead nowhere.
	ok cp -a "$D/." "$SRC/"
	refused ENOENT cat "$SRC/abs"
	refused ENOENT ls "$SRC/d/root/"
	ok tar -C "$SRC" -cf "$W/t.tar" .
	ok mkdir "$R$OUT/back"
	ok tar -C "$R$OUT/back" -xf "$W/t.tar"
	assert "$(readlink "$IN/back/abs" "$IN/back/d/up")" = "$OUT/f"$'\n'.. "links that came back from the host"
	untouched
}

# exchanged BOX TEXT: /mnt/d and a link of that text change places all the time.
exchanged() {
	hostile "$1" "mkdir d; echo box >d/f; ln -s '$2' l
		python3 -c '
import ctypes
libc = ctypes.CDLL(None)
while True:
    libc.renameat2(-100, b\"d\", -100, b\"l\", 2)
' &"
}

# copies SECONDS: copies in both directions and removes, as fast as it can.
copies() {
	local end=$(($(now) + $1 * 1000)) n=0
	mkdir -p "$SRC/s/t"
	echo in >"$SRC/s/t/g"
	while (($(now) < end)); do
		! t cp -r "$SRC/s" "$D/d/" || n=$((n + 1))
		t cp "$SRC/s/t/g" "$D/d/h" || :
		t cp -r "$D/d" "$W/copy" || :
		t rm -rf "$D/d/s" "$D/d/h" || :
		t tar -C "$D/d" -cf "$W/d.tar" . || :
		t tar -C "$D/d" -xf "$W/d.tar" || :
		t chmod -R 700 "$D/d" || :
		t chown -R nobody "$D/d" || :
		t mv "$D/d/s" "$D/d/s2" || :
		t rm -rf "$W/copy" "$D/d/s2" || :
	done >>"$CALLS" 2>&1
	assert "$n" -gt 0 "copies that went in"
}

@test "links leave root/ as they are only for who asks for it" {
	hostile x 'mkdir -p app/node_modules/.bin app/node_modules/pkg; echo cli >app/node_modules/pkg/cli
		ln -s ../pkg/cli app/node_modules/.bin/cli; ln -s ../../../../../../../../../etc/passwd app/node_modules/.bin/out'
	# What cp takes along leads nowhere, and least of all to a file of the host.
	ok cp -a "$D/app/node_modules/.bin" "$W/bin.d"
	assert "$(readlink "$W/bin.d/cli")" = "..@/pkg/cli" "what cp copies"
	[[ ! -e $W/bin.d/cli && ! -e $W/bin.d/out ]] || fail "a link that was copied leads somewhere"
	# The way of the manual.
	# shellcheck disable=SC2016
	ok sh -c 'tar -C "$1/app" --transform="s,\.\.@,..,gRH" -c node_modules | tar -xC "$2"' sh "$D" "$W"
	assert "$(readlink "$W/node_modules/.bin/cli")" = "../pkg/cli" "what tar has changed back"
	assert "$(<"$W/node_modules/.bin/cli")" = cli "what the link leads to"
}

@test "a directory that is swapped for an absolute link leads no cp, tar, rm, chown to the host" {
	exchanged x "$OUT"
	copies 6
	untouched
}

@test "nor does one that is swapped for a link upwards" {
	exchanged x "../../../../../../..$OUT"
	copies 5
	untouched
}

@test "nor does a tree that is moved up and down while somebody stands in it" {
	hostile x "mkdir -p a/b/c/d; ln -s ../../../../../../../..$OUT a/b/c/d/l; ln -s ../f a/b/c/d/m
		python3 -c '
import os
while True:
    os.rename(\"a/b/c/d\", \"/mnt/d\"); os.rename(\"/mnt/d\", \"a/b/c/d\")
    os.rename(\"a/b\", \"/mnt/b\"); os.rename(\"/mnt/b\", \"a/b\")
' &"
	cat >"$W/stand.py" <<-'PY'
		import os, sys, time
		top, seen = sys.argv[1], set()
		end = time.time() + 4
		while time.time() < end:
		    try:
		        d = os.open(top + "/a/b/c/d", os.O_RDONLY)
		    except OSError:
		        continue
		    for name in ("l/f", "../../../../../../../../etc/hostname", "m", "l/new", "../../../x"):
		        try:
		            f = os.open(name, os.O_RDONLY if name != "l/new" else os.O_WRONLY | os.O_CREAT, dir_fd=d)
		            if name == "l/f":
		                seen.add(os.read(f, 10))
		            os.close(f)
		        except OSError:
		            pass
		    os.close(d)
		print(sorted(seen))
	PY
	T=20 ok /usr/bin/python3 "$W/stand.py" "$D"
	assert "$out" = "[b'box\\n']" "what was read"
	untouched
}

@test "FIFOs, sockets and devices are seen and removed, and never opened" {
	hostile x 'mkfifo fifo; mknod null c 1 3; mknod disk b 1 0
		python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")"'
	ok stat -c '%n %F %t %T' "$D/fifo" "$D/null" "$D/disk" "$D/sock"
	assert "${out//"$D/"/}" = 'fifo socket 0 0
null character special file 0 0
disk block special file 0 0
sock socket 0 0' "special files"
	try cat "$D/fifo"
	assert "$err" has 'No such device or address' "a FIFO"
	try sh -c 'echo x >"$1"' sh "$D/fifo"
	assert "$rc" -ne 0 "writing to a FIFO"
	refused EACCES cat "$D/null"
	refused EACCES sh -c 'echo x >"$1"' sh "$D/disk"
	ok cp -a "$D/." "$SRC/"
	ok grep -r x "$D/." --devices=skip || :
	ok tar -C "$D" -cf "$W/t.tar" .
	refused EPERM mkfifo "$D/fifo2"
	ok rm "$D/fifo" "$D/null" "$D/disk" "$D/sock"
	ok ls -A "$D"
	assert "$out" = '' "what is left"
}

@test "proc, sysfs and the control filesystem itself are empty directories in it" {
	local dir
	mkdir "$W/self"
	# shellcheck disable=SC2034 # used by hostile
	IN="$IN, target: $OUT}, {source: $MNT" OUT_SAVED=$OUT OUT=$W/self
	hostile x 'mkdir p; mount -t proc none p'
	OUT=$OUT_SAVED
	for dir in "$R/proc" "$R/sys" "$D/p" "$R$W/self"; do
		ok ls -A "$dir"
		assert "$out" = '' "files in $dir"
		refused ENOENT cat "$dir/version"
		refused EACCES,EPERM mkdir "$dir/new"
		refused EACCES,EPERM cp "$W/calls.log" "$dir/new"
		refused EACCES,EPERM chmod 700 "$dir"
	done
	# It is there all the same, for the box.
	inside x cat "$W/self/version"
	assert "$out" has boxlited "the control filesystem in the box"
	refused EBUSY rmdir "$D/p"
	ok df "$R" "$D" "$D/p"
}

@test "find, cp -r, grep -r, du and tar come to an end in what leads in circles" {
	hostile x 'mkdir -p a/b/c; ln -s / a/loop; ln -s ../.. a/b/up; ln -s /mnt/a a/b/c/again; echo x >a/b/c/f'
	ok find "$D"
	assert "$(wc -l <"$W/out")" -eq 8 "files found"
	ok cp -r "$D/a" "$SRC/"
	ok grep -r x "$D"
	ok du -s "$D"
	ok tar -C "$D" -cf "$W/t.tar" .
	ok rsync -a "$D/" "$SRC/r/"
	# What follows them all the same sees the circle.
	inside x sh -c 'mkdir -p z/y; ln -s .. z/y/up'
	try find -L "$D/z"
	assert "$err" has 'File system loop detected' "what find -L says"
	try cp -rL "$D/z" "$SRC/z"
	assert "$rc" -eq 1 "status of cp -rL"
	ok rm -rf "$D/a" "$D/z"
	untouched
}

# listed DIR: what is in it, but for the times of links and directories.
listed() { (cd "$1" && find . -mindepth 1 ! -type d \( -type l -printf '%P %l\n' -o -printf '%P %m %U:%G %T@ %n\n' \) | sort); }

@test "a path of thousands of levels costs bounded work a call" {
	hostile x
	# More than a call may have; made where the box sees it.
	inside x /usr/bin/python3 -c 'import os
for _ in range(3000):
    os.mkdir("d"); os.chdir("d")'
	# A client goes down as find and rm do, by the directory that it is in.
	py 'import errno, os, resource, sys, time
os.chdir(sys.argv[1])
slowest = depth = 0
while True:
    began = time.monotonic()
    try:
        os.chdir("d")
    except OSError as e:
        assert e.errno == errno.ENAMETOOLONG, e
        break
    slowest = max(slowest, time.monotonic() - began)
    depth += 1
print(depth, int(slowest * 1000))' "$D"
	local depth=${out% *}
	assert "$depth" -ge 1000 "levels that can be reached"
	assert "$depth" -le 1024 "levels that can be reached"
	inside x rm -rf d
}

@test "a tree goes in and out whole: cp -a, tar, rsync" {
	hostile x
	mkdir -p "$SRC/d/e" "$SRC/empty"
	printf 'a' >"$SRC/d/one"
	head -c 300000 /dev/urandom >"$SRC/d/e/some"
	ln "$SRC/d/one" "$SRC/d/hard"
	ln -s one "$SRC/d/link"
	chmod 4751 "$SRC/d/e/some"
	chown 1234:2345 "$SRC/d/one"
	: >"$SRC/"$'new\nline'
	: >"$SRC/"$'\xff\xfe'
	truncate -s 100M "$SRC/sparse"
	echo end >>"$SRC/sparse"
	touch -d '2001-01-01 01:01:01.123456789' "$SRC/d/e/some" "$SRC/d"
	ok cp -a "$SRC" "$D/cp"
	ok mkdir "$D/tar"
	ok sh -c 'tar --format=posix -C "$1" -cSf - . | tar -C "$2" -xf -' sh "$SRC" "$D/tar"
	ok rsync -aHS "$SRC/" "$D/rsync/"
	ok rsync -aHSi --delete "$SRC/" "$D/rsync/"
	assert "$out" = '' "what a second rsync has to do"
	py 'import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
assert os.lseek(f, 0, os.SEEK_DATA) > 99 << 20 and os.lseek(f, 0, os.SEEK_HOLE) == 0' "$D/cp/sparse"
	ok stat -f -c %b "$D/cp/sparse"
	local way blocks=$out
	inside x stat -f -c %b /mnt
	assert "$out" = "$blocks" "size of the file system, as the box has it"
	for way in cp tar rsync; do
		ok cp -a "$D/$way" "$W/back"
		ok diff -r --no-dereference "$SRC" "$W/back"
		# rsync does not keep the times of links, on the host neither.
		assert "$(listed "$W/back")" = "$(listed "$SRC")" "what came back after $way"
		ok du -k "$W/back/sparse"
		assert "${out%%[!0-9]*}" -lt 1000 "blocks of the sparse file after $way"
		rm -rf "$W/back"
	done
}

@test "what the box does is seen at once, and what the host does too" {
	hostile x
	local n
	for n in 1 2 3 4 5 6 7 8; do
		inside x sh -c "printf '%s' $n >>f; ln -sf $n l; mkdir d$n; [ ! -e g ] || rm g"
		ok cat "$D/f"
		assert "${#out}" -eq "$n" "length of what is read"
		ok stat -c %s "$D/f"
		assert "$out" -eq "$n" "size"
		ok readlink "$D/l"
		assert "$out" = "$n" "the link"
		refused ENOENT cat "$D/g"
		ok sh -c 'echo g >"$1"' sh "$D/g"
		inside x cat g
		assert "$out" = g "what the host wrote"
		ok rmdir "$D/d$n"
		inside x sh -c "mkdir d$n && rmdir d$n"
		ok mkdir "$D/d$n"
		inside x rmdir "d$n"
	done
	# Names and types that the kernel may still know, and that are something else now: the
	# box changes them right before they are used.
	inside x mkdir fast
	py 'import os, sys, time
shown, box = sys.argv[1] + "/fast/", sys.argv[2] + "/mnt/fast/"
def text(name):
    with open(shown + name) as f: return f.read()
def put(name, text):
    with open(box + name, "w") as f: f.write(text)
for i in range(200):
    os.mkdir(box + "d"); put("d/f", "1")
    assert text("d/f") == "1"
    os.rename(box + "d", box + "e"); put("d", "file")
    assert text("d") == "file"
    os.unlink(box + "d"); os.symlink("e", box + "d")
    assert text("d/f") == "1" and os.readlink(shown + "d") == "e"
    os.unlink(box + "d"); os.rename(box + "e", box + "d")
    assert os.path.isdir(shown + "d") and not os.path.islink(shown + "d") and text("d/f") == "1"
    put("d/g", "22"); os.rename(box + "d/g", box + "d/f")
    assert text("d/f") == "22" and os.stat(shown + "d/f").st_size == 2
    os.unlink(box + "d/f")
    assert not os.path.exists(shown + "d/f")
    with open(shown + "d/f", "x") as f: f.write("333")
    put("d/f", "4444")
    with open(shown + "d/f", "a") as f: f.write("5")
    with open(shown + "d/f", "ab", 0) as f:
        put("d/f", "4444" * i)
        f.write(b"5")
    assert text("d/f") == "4444" * i + "5"
    os.unlink(box + "d/f"); os.rmdir(box + "d")
    os.mkdir(shown + "d")
    assert os.listdir(shown) == ["d"]
    os.rmdir(box + "d")
    assert os.listdir(shown) == []
# This alone the kernel may not know for some milliseconds.
os.mkdir(box + "d"); os.listdir(shown + "d"); os.rmdir(box + "d"); put("d", "file")
end = time.time() + 2
while True:
    try:
        open(shown + "d", "r+").close()
        break
    except IsADirectoryError:
        assert time.time() < end, "a directory is held for long"' "$D" "/proc/$(box_command "$(pid_of x)")/root"
	# And so does somebody who is in the box.
	inside x sh -c 'mkdir was; echo 1 >was/f; ln -s /nowhere is'
	ok cat "$D/was/f"
	inside x sh -c 'mv was gone; echo file >was'
	ok cat "$D/was"
	inside x sh -c 'rm was; ln -s gone was'
	ok cat "$D/was/f"
	ok sh -c 'echo more >>"$1"; echo more >>"$1"' sh "$D/was/f"
	inside x cat gone/f
	assert "$out" = $'1\nmore\nmore' "appended"
	ok sh -c ': >"$1"' sh "$D/was/f"
	inside x stat -c %s gone/f
	assert "$out" -eq 0 "truncated"
	py 'import os, sys
p = sys.argv[1]
f = open(p, "w+b"); f.write(b"x" * 100000); f.flush()
os.unlink(p)
f.seek(0); assert len(f.read()) == 100000
f.truncate(10); assert os.fstat(f.fileno()).st_size == 10
os.fsync(f.fileno())
assert not os.path.exists(p)
for i in range(10): open("%s%d" % (p, i), "xb").close()
os.rename(p + "0", p + "1"); os.link(p + "1", p)
assert os.stat(p).st_nlink == 2 and os.stat(p).st_ino == os.stat(p + "1").st_ino' "$D/py"
}

@test "10,000 files, each listed once" {
	hostile x 'mkdir many; cd many; seq 10000 | xargs touch; cd ..'
	T=30 ok find "$D/many" -type f -name '[0-9]*' -printf '%f\n'
	assert "$(sort -n "$W/out" | uniq | wc -l)" -eq 10000 "files found"
	assert "$(wc -l <"$W/out")" -eq 10000 "files found, with those found twice"
	T=30 ok rm -rf "$D/many"
	inside x ls
	assert "$out" = '' "what the box has left"
}

@test "a paused box's files can be read" {
	hostile x 'echo text >f'
	ctl x pause
	ok cat "$D/f"
	assert "$out" = text "a file of a paused box"
	ok cp "$D/f" "$D/g"
	ctl x resume
}

@test "the end of the run ends what is open, and the next run has its own" {
	watch_fds
	hostile x "echo one >f; mkdir d"
	bg tail tail -n +1 -F --retry -s 0.1 "$D/f"
	bg stand sh -c 'cd "$1" && exec 3<"$2" && echo in && while ! cat /nothing/"$(head -c 1 <&3)" 2>/dev/null && head -c 0 <&3; do sleep 0.05; [ ! -e "$3" ] || { cat <&3; ls .; exit 7; }; done' sh "$D/d" "$D/f" "$W/over"
	await "the reader to have it open" 5 grep -qx in "$W/stand.out"
	await "tail to have read it" 5 grep -qx one "$W/tail.out"
	ctl x kill
	await "the daemon to let go of the box's mounts" 5 no_box_fds
	refused ESRCH cat "$D/f"
	ok rmdir "$MNT/boxes/x"
	: >"$W/over"
	join stand
	assert "$err" has ': No such device' "what a reader of the old run is told"
	assert "$err" has "'.': Stale file handle" "what one who stands in a directory of it is told"
	hostile x 'echo two >f'
	await "tail to find the file of the next run" 10 grep -qx two "$W/tail.out"
	kill_tree "${JOB[tail]}" || :
}

# no_box_fds: the daemon has no descriptor of a file that is on a mount of another
# namespace than its own: there it has no name, or one below /mnt.
no_box_fds() { ! find "/proc/$DAEMON/fd" -printf '%l\n' | grep -qE '^(/mnt/.*|/|/f|/proc/[0-9]+)$'; }

@test "a daemon that is started again finds the files of a box that runs" {
	hostile x 'echo text >f'
	ok cat "$D/f"
	restart_daemon
	ok cat "$D/f"
	assert "$out" = text "the file"
	ctl x kill
}
