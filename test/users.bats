#!/usr/bin/env bats
#
# The tree between several users of one host: what a user cannot do to whom nothing was
# given, or not that. The table in the README names these tests. Each attack is also made
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
	kill_tree "${JOB[thief]}"
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
