#!/usr/bin/env bats
#
# Commands, and who waits for them: what is written after what, what a kill cancels, whose
# close waits, and what becomes of a command in an odd state.

load helpers

setup() {
	common_setup
	start_daemon
}

@test "a box in its backoff whose configuration the next daemon cannot read is killed as any other" {
	box x $'command: ["false"]\nrestart: {policy: always}'
	ctl x start
	becomes x status restarting
	stop_daemon
	echo 'comand: [' >"$STATE/boxes/x/config.yaml"
	# The backoff is as long as there are any.
	py 'import json, sys
path = sys.argv[1]
record = json.load(open(path))
record["restart_at"] = "2100-01-01T00:00:00Z"
json.dump(record, open(path, "w"))' "$STATE/boxes/x/state.json"
	start_daemon
	is x status restarting
	ctl x kill
	is x status stopped
	ok rmdir "$MNT/boxes/x"
}
