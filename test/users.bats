#!/usr/bin/env bats
#
# The tree between several users of one host: what a user cannot do to whom nothing was
# given, or not that. The page boxlite-security(7) names these tests. Each attack is also made
# where nothing guards against it, to know that it is one.

load helpers

setup() {
	common_setup
	start_daemon
}

ALICE=(setpriv --reuid 1000 --regid 1000 --clear-groups)
BOB=(setpriv --reuid 1001 --regid 1001 --clear-groups)

E() { echo "$MNT/boxes/$1/exec/$2"; }

# mode PATH WANT
mode() {
	ok stat -c %a "$1"
	assert "$out" = "$2" "mode of $1"
}

# ended BOX NAME CODE
ended() {
	rd "$1/exec/$2/wait/stopped"
	assert "$out" = "$3" "exit code of $1/$2"
}

# --- exec/ -------------------------------------------------------------------

# thief: for as long as it lives it puts an exec of its own in the place of each that it
# finds, and says so.
THIEF='import os, sys
execs = sys.argv[1]
print("begins", flush=True)
while True:
    for name in os.listdir(execs):
        try:
            if os.stat(execs + "/" + name).st_uid == os.getuid():
                continue
            os.rmdir(execs + "/" + name)
            os.mkdir(execs + "/" + name)
            print("took", name, flush=True)
        except OSError:
            pass'

@test "who was given exec/ takes nobody's exec away, nor its name" {
	up x "$SLEEPER"
	ok chown 1000:1000 "$MNT/boxes/x/exec"
	ok mkdir "$(E x e1)"
	bg reader cat "$(E x e1)/stdout"
	await_blocked reader
	refused EPERM "${ALICE[@]}" rmdir "$(E x e1)"
	is x last_error 'box "x": exec: "e1": not permitted: it belongs to uid 0, and nobody else but root removes it'
	# Who waits for root's command waits on, and gets what it says.
	blocked reader || fail "the reader of root's stdout does not wait any more"
	ok "${ECHO[@]}" "$(E x e1)/cmd" 'echo fine'
	join reader
	assert "$rc/$out" = 0/fine "what root's command says"
	refused EPERM "${ALICE[@]}" rmdir "$(E x e1)"
	# At full speed, against names that nobody can guess.
	bg thief "${ALICE[@]}" /usr/bin/python3 -c "$THIEF" "$MNT/boxes/x/exec"
	await "the thief" 5 grep -q begins "$W/thief.out"
	local i name
	for i in {1..10}; do
		name=e-$i-$RANDOM
		ok mkdir "$(E x "$name")"
		ok "${ECHO[@]}" "$(E x "$name")/cmd" 'id -u'
		is x "exec/$name/stdout" 0
		ended x "$name" 0
		ok rmdir "$(E x "$name")"
	done
	assert "$(grep -c took "$W/thief.out")" -eq 0 "execs that were taken"
	# What belongs to her she may take, so the attack is one.
	kill_tree "${JOB[thief]}" || : # one of it may be gone already
	await "the thief to go" 5 gone "${JOB[thief]}"
	ok mkdir "$(E x e2)"
	ok chown 1000 "$(E x e2)"
	ok "${ALICE[@]}" sh -c 'rmdir "$1" && mkdir "$1"' sh "$(E x e2)"
	ok stat -c %u "$(E x e2)"
	assert "$out" = 1000 "whose it is now"
	# Nor do two who share the directory take from each other.
	ok chmod 0777 "$MNT/boxes/x/exec"
	refused EPERM "${BOB[@]}" rmdir "$(E x e2)"
	ok "${BOB[@]}" mkdir "$(E x e3)"
	refused EPERM "${ALICE[@]}" rmdir "$(E x e3)"
	ok "${BOB[@]}" rmdir "$(E x e3)"
	# And what was taken back from her is not hers any more, also for the next daemon.
	ok chown 0 "$(E x e2)"
	restart_daemon
	refused EPERM "${ALICE[@]}" rmdir "$(E x e2)"
	ok rmdir "$(E x e2)"
}

# denied BOX NAME COMMAND WHY: root's command is refused there, and nothing of it is kept.
denied() {
	refused EPERM "${ECHO[@]}" "$(E "$1" "$2")/cmd" "$3"
	rd "$1/last_error"
	assert "$out" has "$4" "last_error"
	is "$1" "exec/$2/cmd" ''
	is "$1" "exec/$2/status" empty
}

@test "root's command in an exec that another has made, or was given, has no more than his rights" {
	up h "$SLEEPER"
	up n $'command: [sleep, infinity]\nuser: nobody'
	ok chown 1000:1000 "$MNT/boxes/h/exec" "$MNT/boxes/n/exec"
	# She was first with the name, and root's script does not look at its mkdir.
	ok "${ALICE[@]}" mkdir "$(E h job)" "$(E n job)"
	refused EEXIST mkdir "$(E h job)"
	denied h job 'id -u' 'uid 1000 has made this exec, and its command gets no more than others may have: the box runs as root'
	denied n job '{command: [id, -u], user: root}' 'uid 1000 has made this exec, and its command gets no more than others may have: only root chooses the user'
	# To take it back changes nothing; nor does the next daemon.
	ok chown -R 0:0 "$(E h job)"
	denied h job 'id -u' 'uid 1000 has made this exec'
	restart_daemon
	denied h job 'id -u' 'uid 1000 has made this exec'
	ok "${ECHO[@]}" "$(E n job)/cmd" 'id -u'
	is n exec/job/stdout 65534
	# What is root's own, but for one thing.
	ok mkdir "$(E h e1)"
	local file
	for file in . cmd stdin stdout stderr ctl status wait/stopped; do
		ok chown 1000 "$(E h e1)/$file"
		denied h e1 'id -u' ' belongs to uid 1000, and its command'
		ok chown 0 "$(E h e1)/$file"
	done
	ok chmod 0222 "$(E h e1)/stdin"
	denied h e1 'id -u' 'others than root may write stdin, and its command'
	ok chmod 0200 "$(E h e1)/stdin"
	# Without any of that it runs as root.
	ok "${ECHO[@]}" "$(E h e1)/cmd" 'id -u'
	is h exec/e1/stdout 0
	ok mkdir "$(E n e1)"
	ok "${ECHO[@]}" "$(E n e1)/cmd" '{command: [id, -u], user: root}'
	is n exec/e1/stdout 0
}

@test "boxes/ and images/ are root's, whatever somebody was given in them" {
	up x "$SLEEPER"
	ok chown -R 1000:1000 "$MNT/boxes/x/wait" "$MNT/boxes/x/exec"
	local file dir
	for file in . ctl status health pid exit_code last_error info.json stats log events; do
		ok chown 1000:1000 "$MNT/boxes/x/$file"
		ok chmod 0777 "$MNT/boxes/x/$file"
	done
	refused EACCES "${ALICE[@]}" rmdir "$MNT/boxes/x"
	for dir in boxes images; do
		refused EPERM chown 1000 "$MNT/$dir"
		refused EPERM chmod 0777 "$MNT/$dir"
		refused EPERM,EACCES "${ALICE[@]}" mkdir "$MNT/$dir/y"
		mode "$MNT/$dir" 755
	done
	refused EACCES "${ALICE[@]}" "${ECHO[@]}" "$MNT/boxes/x/config.yaml" 'command: [id]'
	# She drives it, as she was meant to; and root removes it.
	ok "${ALICE[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	ok rmdir "$MNT/boxes/x"
}

@test "nobody takes the output of another's exec, or sees into it" {
	up x "$SLEEPER"
	ok chmod 0777 "$MNT/boxes/x/exec"
	ok mkdir "$(E x e1)"
	mode "$(E x e1)" 700
	ok "${ECHO[@]}" "$(E x e1)/cmd" 'echo secret'
	ended x e1 0
	refused EACCES "${ALICE[@]}" cat "$(E x e1)/stdout"
	refused EACCES "${ALICE[@]}" ls "$(E x e1)"
	refused EACCES "${ALICE[@]}" cat "$(E x e1)/status"
	# The streams stay its owner's where others may look in.
	ok chmod 0755 "$(E x e1)"
	ok "${ALICE[@]}" cat "$(E x e1)/status"
	assert "$out" = stopped "status"
	refused EACCES "${ALICE[@]}" cat "$(E x e1)/stdout"
	refused EACCES "${ALICE[@]}" cat "$(E x e1)/stderr"
	refused EACCES "${ALICE[@]}" cat "$(E x e1)/cmd"
	is x exec/e1/stdout secret
	# Where they may, one has it, and no other.
	ok mkdir "$(E x e2)"
	ok chmod 0755 "$(E x e2)"
	ok chmod 0444 "$(E x e2)/stdout"
	ok "${ECHO[@]}" "$(E x e2)/cmd" 'echo secret'
	ended x e2 0
	ok "${ALICE[@]}" cat "$(E x e2)/stdout"
	assert "$out" = secret "what she takes"
	is x exec/e2/stdout ''
	# Nor does alice's belong to anybody else.
	ok "${ALICE[@]}" mkdir "$(E x e3)"
	ok stat -c '%a %u:%g' "$(E x e3)" "$(E x e3)/stdout" "$(E x e3)/stdin"
	assert "$out" = $'700 1000:1000\n400 1000:1000\n200 1000:1000' "mode and owner"
	refused EACCES "${BOB[@]}" ls "$(E x e3)"
}

@test "an exec has the mode of mkdir, and 0700 without" {
	box x
	local mask
	for mask in 000 002 022 077; do
		ok sh -c 'umask "$1" && mkdir "$2"' sh "$mask" "$(E x "plain$mask")"
		mode "$(E x "plain$mask")" 700
	done
	ok mkdir -m 750 "$(E x m750)"
	ok mkdir -m 711 "$(E x m711)"
	py 'import os, sys; os.umask(0o022); os.mkdir(sys.argv[1], 0o770)' "$(E x p)"
	restart_daemon
	mode "$(E x m750)" 750
	mode "$(E x m711)" 711
	mode "$(E x p)" 750
	mode "$(E x plain022)" 700
	mode "$(E x m750)/stdout" 400
}

# --- what was given, and taken back ------------------------------------------

# hold NAME ID… -- PATH=TEXT…: somebody opens files and keeps them open, see holder.py.
# turn has him write to them, release has him close them.
hold() {
	local name=$1 id=()
	shift
	while [[ $1 != -- ]]; do
		id+=("$1")
		shift
	done
	shift
	mkfifo -m 0666 "$W/$name.fifo"
	bg "$name" "${id[@]}" /usr/bin/python3 "$BATS_TEST_DIRNAME/holder.py" "$W/$name.fifo" "$@"
	local fd
	exec {fd}<>"$W/$name.fifo"
	TURNS[$name]=$fd
	await "$name to have them open" 5 lines "$name" 1
}

declare -gA TURNS=()

lines() { (($(wc -l <"$W/$1.out") >= $2)); }

# turn NAME SAID: he writes, and that goes as told.
turn() {
	local n
	n=$(wc -l <"$W/$1.out")
	echo >&"${TURNS[$1]}"
	await "the turn of $1" 5 lines "$1" $((n + 1))
	assert "$(tail -n 1 "$W/$1.out")" = "$2" "what $1 may"
}

release() {
	echo end >&"${TURNS[$1]}"
	join "$1"
}

@test "an open ctl, cmd or stdin loses its right with the chown" {
	up x $'command: [sleep, infinity]\nuser: nobody'
	local b=$MNT/boxes/x
	ok mkdir "$(E x e1)" "$(E x e2)"
	ok chmod 0711 "$(E x e1)" "$(E x e2)"
	ok "${ECHO[@]}" "$(E x e1)/cmd" cat
	ok chown 1000 "$b/ctl" "$(E x e1)/stdin" "$(E x e1)/ctl" "$(E x e2)/cmd"
	hold alice "${ALICE[@]}" -- "$b/ctl=signal CONT" "$(E x e1)/stdin=hers" "$(E x e1)/ctl=signal CONT" "$(E x e2)/cmd=true"
	hold root env -- "$b/ctl=signal CONT"
	turn alice 'ok ok ok ok'
	ok chown 0 "$b/ctl" "$(E x e1)/stdin" "$(E x e1)/ctl" "$(E x e2)/cmd"
	rd x/last_error
	local before=$out
	turn alice 'EACCES EACCES EACCES EACCES'
	turn root ok
	# She says nothing in the box's name either, and what she had written is not run.
	is x last_error "$before"
	release alice
	is x exec/e2/status empty
	is x exec/e2/cmd ''
	rd x/events
	assert "$(grep -c 'by=1000:.*signal SIGCONT' <<<"$out")" -eq 1 "her signals"
	# To have it back is to have it: what counts is what is so now.
	ok chown 1000 "$b/ctl"
	hold again "${ALICE[@]}" -- "$b/ctl=signal CONT"
	ok chmod 0020 "$b/ctl"
	turn again EACCES
	ok chmod 0200 "$b/ctl"
	turn again ok
}

@test "whose stdin was taken back neither ends it, nor keeps it from its end" {
	up x "$SLEEPER"
	local e
	for e in e1 e2; do
		ok mkdir "$(E x "$e")"
		ok chmod 0711 "$(E x "$e")"
		ok "${ECHO[@]}" "$(E x "$e")/cmd" cat
		ok chown 1000 "$(E x "$e")/stdin"
		hold "alice-$e" "${ALICE[@]}" -- "$(E x "$e")/stdin=hers"
	done
	# What is hers has no end while she has it.
	ok "${ECHO[@]}" "$(E x e1)/stdin" 'while it is hers'
	is x exec/e1/status running
	ok chown 0 "$(E x e1)/stdin" "$(E x e2)/stdin"
	ok "${ECHO[@]}" "$(E x e1)/stdin" 'while it is not'
	ended x e1 0
	is x exec/e1/stdout $'while it is hers\nwhile it is not'
	release alice-e2
	is x exec/e2/status running
	ok "${ECHO[@]}" "$(E x e2)/stdin" 'after hers'
	ended x e2 0
	is x exec/e2/stdout 'after hers'
}

@test "a right that is a group's or a capability's lasts as long as that" {
	up x "$SLEEPER"
	local b=$MNT/boxes/x
	ok chown 0:2000 "$b/ctl"
	ok chmod 0220 "$b/ctl"
	hold member setpriv --reuid 1001 --regid 1001 --groups 2000,2001 -- "$b/ctl=signal CONT"
	hold able setpriv --reuid 1002 --regid 1002 --clear-groups --inh-caps +dac_override --ambient-caps +dac_override -- "$b/ctl=signal CONT"
	turn member ok
	turn able ok
	ok chgrp 2001 "$b/ctl"
	turn member ok
	ok chgrp 0 "$b/ctl"
	turn member EACCES
	turn able ok
	# Who is in a group that has less than all others has no more than that.
	ok chmod 0202 "$b/ctl"
	hold other setpriv --reuid 1003 --regid 1003 --groups 2000 -- "$b/ctl=signal CONT"
	turn other ok
	ok chgrp 2000 "$b/ctl"
	refused EACCES setpriv --reuid 1003 --regid 1003 --groups 2000 "${ECHO[@]}" "$b/ctl" 'signal CONT'
	turn other EACCES
}

@test "commands that wait are not begun for who has lost the box" {
	stubborn x
	ok chown 1000 "$MNT/boxes/x/ctl"
	hold alice "${ALICE[@]}" -- "$MNT/boxes/x/ctl=$(printf 'stop 1s\nstart')"
	turn alice ok
	is x status stopping
	ok chown 0 "$MNT/boxes/x/ctl"
	becomes x status stopped
	release alice
	is x status stopped
	# Who has it still is served.
	ok chown 1000 "$MNT/boxes/x/ctl"
	ctl x start
	ok "${ALICE[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" $'stop 100ms\nstart'
	is x status running
}

@test "a reader of an exec's output loses it with the chown" {
	up x "$SLEEPER"
	ok mkdir "$(E x e1)"
	ok chmod 0711 "$(E x e1)"
	ok "${ECHO[@]}" "$(E x e1)/cmd" cat
	ok chown 1000 "$(E x e1)/stdout"
	hold root env -- "$(E x e1)/stdin=line"
	bg alice "${ALICE[@]}" cat "$(E x e1)/stdout"
	await_blocked alice
	turn root ok
	await "her line" 5 lines alice 1
	await_blocked alice
	ok chown 0 "$(E x e1)/stdout"
	turn root ok
	join alice
	assert "$rc" -ne 0 "status of her cat"
	assert "$err" has "${ERRNO_TEXT[EACCES]}" "what it says"
	assert "$out" = line "what she has got"
	ok head -c 5 "$(E x e1)/stdout"
	assert "$out" = line "what root gets"
}

# --- who may look ------------------------------------------------------------

# modes BOX: every file of a box with its mode and owner, a line each.
modes() {
	ok find "$MNT/boxes/$1" -printf '%P %m %U:%G\n'
	out=$(sort <<<"$out")
}

PRIVATE_TREE=' 700 0:0
config.yaml 640 0:0
ctl 200 0:0
events 400 0:0
exec 700 0:0
exit_code 400 0:0
health 400 0:0
info.json 400 0:0
last_error 400 0:0
log 400 0:0
pid 400 0:0
stats 400 0:0
status 400 0:0
wait 700 0:0
wait/event 400 0:0
wait/exit 400 0:0
wait/healthy 400 0:0
wait/log 400 0:0
wait/running 400 0:0
wait/stopped 400 0:0'

@test "mkdir -m 700 and a umask of 077 make a box that only its owner reads" {
	ok mkdir -m 700 "$MNT/boxes/x"
	ok sh -c 'umask 077 && mkdir "$1"' sh "$MNT/boxes/y"
	# It holds from the first moment, whatever happens.
	kill_daemon
	start_daemon
	modes x
	assert "$out" = "$PRIVATE_TREE" "tree of mkdir -m 700"
	modes y
	assert "$out" = "$PRIVATE_TREE" "tree of umask 077"
	restart_daemon
	modes x
	assert "$out" = "$PRIVATE_TREE" "tree after a restart"
	local file
	for file in . log info.json status wait/log; do
		refused EACCES "${ALICE[@]}" ls -l "$MNT/boxes/x/$file"
		refused EACCES "${ALICE[@]}" cat "$MNT/boxes/x/$file"
	done
	# Nor does it help to know the names.
	ok chmod 0711 "$MNT/boxes/x"
	refused EACCES "${ALICE[@]}" cat "$MNT/boxes/x/log"
	# What was made for all is for all, and can be closed and opened.
	box z
	ok "${ALICE[@]}" cat "$MNT/boxes/z/log" "$MNT/boxes/z/info.json"
	ok stat -c '%a %u' "$MNT/boxes/z/log"
	assert "$out" = '444 0' "log of a box without a word"
	ok chmod 0750 "$MNT/boxes/z"
	mode "$MNT/boxes/z/log" 440
	ok chmod 0755 "$MNT/boxes/z"
	mode "$MNT/boxes/z/log" 444
	mode "$MNT/boxes/z/exec" 755
}

@test "a private box is readable for whom it is given to, and no more than readable" {
	ok sh -c 'umask 027 && mkdir "$1"' sh "$MNT/boxes/x"
	configure x <<<"$SLEEPER"
	ctl x start
	local member=(setpriv --reuid 1002 --regid 1002 --groups 2000) file
	refused EACCES "${member[@]}" cat "$MNT/boxes/x/log"
	ok chown 1000:2000 "$MNT/boxes/x"
	restart_daemon
	for file in log info.json status stats events wait/running; do
		ok "${ALICE[@]}" cat "$MNT/boxes/x/$file"
		ok "${member[@]}" cat "$MNT/boxes/x/$file"
		refused EACCES "${BOB[@]}" cat "$MNT/boxes/x/$file"
		mode "$MNT/boxes/x/$file" 440
	done
	refused EACCES "${ALICE[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	refused EACCES "${ALICE[@]}" mkdir "$(E x e1)"
	refused EACCES "${ALICE[@]}" cat "$MNT/boxes/x/config.yaml"
	refused EACCES "${ALICE[@]}" "${ECHO[@]}" "$MNT/boxes/x/config.yaml" 'command: [id]'
	# Her log is hers to show.
	ok "${ALICE[@]}" chmod 0444 "$MNT/boxes/x/log"
	ok "${ALICE[@]}" chmod 0755 "$MNT/boxes/x"
	ok "${BOB[@]}" cat "$MNT/boxes/x/log"
	is x status running
}

@test "a box that somebody else may make is root's" {
	# There is no giving away boxes/; but there are capabilities.
	ok setpriv --reuid 1002 --regid 1002 --clear-groups --inh-caps +dac_override --ambient-caps +dac_override mkdir "$MNT/boxes/x"
	ok stat -c '%u %a' "$MNT/boxes/x" "$MNT/boxes/x/config.yaml" "$MNT/boxes/x/ctl" "$MNT/boxes/x/exec"
	assert "$out" = $'0 755\n0 640\n0 200\n0 755' "owner and modes"
	refused EACCES setpriv --reuid 1002 --regid 1002 --clear-groups "${ECHO[@]}" "$MNT/boxes/x/config.yaml" 'command: [id]'
}

@test "--private: what boxes say and do is for their owner and group" {
	restart_daemon --private
	up x "$SLEEPER"
	mkdir "$W/layer"
	push "oci:$W/layout" "$W/layer" --cmd /x
	ok "${ECHO[@]}" "$MNT/images/ctl" "pull oci:$W/layout"
	ok ls "$MNT/images"
	local file image
	image=$(grep @ <<<"$out")
	local files=(events metrics wait/event "images/$image/info.json" boxes/x/{log,info.json,stats,events,wait/log,wait/event})
	for file in "${files[@]}"; do
		mode "$MNT/$file" 440
		refused EACCES "${ALICE[@]}" cat "$MNT/$file"
	done
	for file in version features last_error boxes/x/{status,health,pid,exit_code,last_error,wait/running}; do
		mode "$MNT/$file" 444
		ok "${ALICE[@]}" cat "$MNT/$file"
	done
	# The owner of a box, and its group, read what is said of it, and of no other.
	up y "$SLEEPER"
	ok chown 1000:2000 "$MNT/boxes/x"
	for file in log info.json stats events; do
		ok "${ALICE[@]}" cat "$MNT/boxes/x/$file"
		ok setpriv --reuid 1002 --regid 1002 --groups 2000 cat "$MNT/boxes/x/$file"
		refused EACCES "${BOB[@]}" cat "$MNT/boxes/x/$file"
		refused EACCES "${ALICE[@]}" cat "$MNT/boxes/y/$file"
	done
	refused EACCES "${ALICE[@]}" "${ECHO[@]}" "$MNT/boxes/x/ctl" kill
	# What was given a mode keeps it, with the flag and without.
	ok chmod 0444 "$MNT/boxes/y/log"
	ok "${ALICE[@]}" cat "$MNT/boxes/y/log"
	ok chmod 0400 "$MNT/boxes/x/stats"
	restart_daemon
	for file in events metrics "images/$image/info.json" boxes/x/{log,info.json,events}; do
		ok "${BOB[@]}" cat "$MNT/$file"
	done
	mode "$MNT/wait/event" 444
	refused EACCES "${BOB[@]}" cat "$MNT/boxes/x/stats"
}

@test "the files of a box that was taken back are not for its last owner to change" {
	ok mkdir -m 750 "$MNT/boxes/x"
	ok chown 1000:1000 "$MNT/boxes/x"
	# By bare calls: what the kernel knows of the file is from before.
	mkfifo -m 0666 "$W/turns"
	bg alice "${ALICE[@]}" /usr/bin/python3 -c 'import errno, os, sys
log = sys.argv[1] + "/log"
fd = os.open(log, os.O_RDONLY)
print("hers", flush=True)
open(sys.argv[2]).read()
for call in (lambda: os.fchmod(fd, 0o444), lambda: os.fchown(fd, -1, 1000)):
    try:
        call()
        print("changed")
    except OSError as e:
        print(errno.errorcode[e.errno])' "$MNT/boxes/x" "$W/turns"
	await "her first change" 5 lines alice 1
	ok chown 0:0 "$MNT/boxes/x"
	ok sh -c 'echo >"$1"' sh "$W/turns"
	join alice
	assert "$out" = $'hers\nEPERM\nEPERM' "what she may"
}

# whose FILE WANT: the mode, uid and gid of a file of x.
whose() {
	ok stat -c '%a %u:%g' "$MNT/boxes/x/$1"
	assert "$out" = "$2" "mode and owner of $1"
}

@test "a file that was given only a mode follows the directory to its next owner" {
	box x
	local b=$MNT/boxes/x
	ok chown 1000:1000 "$b"
	whose log '444 0:0'
	ok chmod 600 "$b/log"
	ok chmod 600 "$b/wait/log"
	whose log '600 1000:1000'
	ok "${ALICE[@]}" chmod 400 "$b/log"
	# What she gives to herself is hers no longer than the directory is.
	ok chmod 750 "$b"
	ok "${ALICE[@]}" chown 1000:1000 "$b/stats"
	ok "${ALICE[@]}" chgrp 1000 "$b/health"
	ok "${ALICE[@]}" chmod 640 "$b/stats"
	ok "${ALICE[@]}" chmod 444 "$b/events"
	whose events '444 1000:1000'
	ok chgrp 2000 "$b/pid"
	restart_daemon
	whose log '400 1000:1000'
	ok chown 1001:1001 "$b"
	whose log '400 1001:1001'
	whose wait/log '600 1001:1001'
	whose stats '640 1001:1001'
	whose health '440 1001:1001'
	whose events '444 1001:1001'
	whose pid '440 1001:2000'
	ok "${BOB[@]}" cat "$b/log"
	# What was given an owner keeps it, and follows in the mode.
	ok chown 1000:1000 "$b/info.json"
	ok chmod 755 "$b"
	ok chown 0:0 "$b"
	restart_daemon
	whose log '400 0:0'
	whose events '444 0:0'
	refused EACCES "${ALICE[@]}" cat "$b/log"
	refused EPERM "${ALICE[@]}" chmod 444 "$b/log"
	whose info.json '444 1000:1000'
	# No mode makes a right to use the box go with it.
	ok chmod 200 "$b/ctl"
	ok chmod 700 "$b/exec"
	ok chown 1001:1001 "$b"
	whose ctl '200 0:0'
	whose exec '700 0:0'
}
