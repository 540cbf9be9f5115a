package config

import (
	"errors"
	"strings"
	"testing"
)

// A write judges what has arrived with the same words as the close; but what
// may still be repaired is no error of the write.
type verdict int

const (
	atWrite verdict = iota // CheckPrefix refuses it as well
	atClose                // only Parse does: more text might repair it
)

func TestRefuses(t *testing.T) {
	long := strings.Repeat("x", 257)
	cases := []struct {
		name, text string
		key        string
		want       string
		when       verdict
	}{
		{"misspelt key", "command: [a]\n\ncomand: [b]\n", "comand", `line 3: unknown key "comand" (did you mean "command"?)`, atWrite},
		{"key in capitals", "Command: [a]\n", "Command", `line 1: unknown key "Command" (did you mean "command"?)`, atWrite},
		{"far key", with("zebra: 1\n"), "zebra", `line 2: unknown key "zebra"`, atWrite},
		{"nested key", with("stop:\n  sginal: TERM\n"), "stop.sginal", `line 3: unknown key "stop.sginal" (did you mean "stop.signal"?)`, atWrite},
		{"nested far key", with("log:\n  zebra: 1\n"), "log.zebra", `line 3: unknown key "log.zebra" (known here: max_size)`, atWrite},
		{"security key", with("security:\n  no_new_privilege: true\n"), "security.no_new_privilege", `line 3: unknown key "security.no_new_privilege" (did you mean "security.no_new_privileges"?)`, atWrite},
		{"duplicate key", "command: [a]\nuser: root\ncommand: [b]\n", "command", `line 3: key "command" is given twice, first on line 1: keep one`, atWrite},
		{"duplicate env", with("env:\n  A: 1\n  A: 2\n"), "env.A", `line 4: key "env.A" is given twice, first on line 3: keep one`, atWrite},
		{"rootfs", with("rootfs: x\n"), "rootfs", `line 2: rootfs "x" is not absolute: start it with a /`, atWrite},
		{"rootfs and image", with("rootfs: /x\nimage: oci:/x\n"), "rootfs", `line 2: image and rootfs are both given: keep one`, atClose},
		{"rootfs on the host", with("engine: host\nrootfs: /x\n"), "rootfs", `line 3: rootfs is for engine container only: leave it or the engine out`, atClose},
		{"overlay of a map", with("overlay: {}\n"), "overlay", `line 2: overlay must be true or false, not a map`, atWrite},
		{"overlay on the host", with("overlay: true\n"), "overlay", `line 2: overlay is for engine container only: leave it or the engine out`, atClose},
		{"overlay of an image", with("image: oci:/x\noverlay: true\n"), "overlay", `line 3: overlay is for rootfs only: an image is always shared, and its changes are the box's own`, atClose},
		{"pull without an image", with("rootfs: /x\npull: always\n"), "pull", `line 3: pull is for image only: a rootfs is used as it is`, atClose},
		{"pull of engine host", with("pull: always\n"), "pull", `line 2: pull is for engine container only: leave it or the engine out`, atClose},
		{"a pull that is none", with("image: oci:/x\npull: never\n"), "pull", `line 3: pull "never" is unknown (did you mean "newer"?)`, atWrite},
		{"entrypoint without an image", with("rootfs: /x\nentrypoint: [a]\n"), "entrypoint", `line 3: entrypoint is for image only: put all words into command`, atClose},
		{"entrypoint of a word", with("image: oci:/x\nentrypoint: a\n"), "entrypoint", `line 3: entrypoint must be a list of words, like [/bin/sh, -c], or [] for none, not a string`, atWrite},
		{"runtime on the host", with("runtime: crun\n"), "runtime", `line 2: runtime is for engine container only: leave it or the engine out`, atClose},
		{"runtime misspelt", with("rootfs: /x\nruntime: cruns\n"), "runtime", `line 3: runtime "cruns" is unknown (did you mean "crun"?)`, atWrite},
		{"rootfs without command", "rootfs: /x\n", "command", `line 1: command is missing: add what the box runs, like command: [sleep, "60"]`, atClose},
		{"cpus of zero", with("resources: {cpus: 0}\n"), "resources.cpus", `line 2: resources.cpus 0 is out of range: it goes from 0.01 to 65536 (leave the key out for no limit)`, atWrite},
		{"cpus of a word", with("resources: {cpus: all}\n"), "resources.cpus", `line 2: resources.cpus "all" is no number of processors: write it like 0.5 or 2`, atWrite},
		{"negative cpus", with("resources:\n  cpus: -1\n"), "resources.cpus", `line 3: resources.cpus "-1" is no number of processors: write it like 0.5 or 2`, atWrite},
		{"little memory", with("resources: {memory: 4KiB}\n"), "resources.memory", `line 2: resources.memory "4KiB" is too small: it must be at least 1MiB`, atWrite},
		{"no pids", with("resources: {pids: 0}\n"), "resources.pids", `line 2: resources.pids "0" is out of range: write a whole number from 1 to 4194304, or unlimited`, atWrite},
		{"pids of a half", with("resources: {pids: 1.5}\n"), "resources.pids", `line 2: resources.pids "1.5" is out of range: write a whole number from 1 to 4194304, or unlimited`, atWrite},
		{"resource key", with("resources: {cpu: 1}\n"), "resources.cpu", `line 2: unknown key "resources.cpu" (did you mean "resources.cpus"?)`, atWrite},
		{"health_check of a word", with("health_check: off\n"), "health_check", `line 2: health_check must be a map, like {interval: 30s} or {disabled: true}, not a string`, atWrite},
		{"two probes", with("health_check: {tcp: 80, command: [a]}\n"), "health_check", `line 2: health_check has both command and tcp: a probe is one of command, tcp and http`, atWrite},
		{"probe of no command", with("health_check: {command: []}\n"), "health_check.command", `line 2: health_check.command is empty: name what is run, like [curl, -fsS, localhost]`, atWrite},
		{"port of zero", with("health_check: {tcp: 0}\n"), "health_check.tcp", `line 2: health_check.tcp "0" is no port: write a whole number from 1 to 65535`, atWrite},
		{"https", with("health_check: {http: \"https://localhost/\"}\n"), "health_check.http", `line 2: health_check.http "https://localhost/" does not begin with http://: write it like http://localhost:8080/health`, atWrite},
		{"a host by name", with("health_check: {http: \"http://example.com/\"}\n"), "health_check.http", `line 2: health_check.http "http://example.com/" names a host that is neither localhost nor an address: write it like http://localhost:8080/health`, atWrite},
		{"an odd port", with("health_check: {http: \"http://localhost:99999/\"}\n"), "health_check.http", `line 2: health_check.http "http://localhost:99999/" has a port that is none: write it like http://localhost:8080/health`, atWrite},
		{"short interval", with("health_check: {interval: 1ms}\n"), "health_check.interval", `line 2: health_check.interval 1ms is out of range: it goes from 10ms to 8760h`, atWrite},
		{"no timeout", with("health_check: {timeout: 0}\n"), "health_check.timeout", `line 2: health_check.timeout 0 is out of range: it goes from 10ms to 8760h`, atWrite},
		{"no retries", with("health_check: {retries: 0}\n"), "health_check.retries", `line 2: health_check.retries "0" is no whole number from 1 to 1000`, atWrite},
		{"on_unhealthy", with("health_check: {on_unhealthy: kill}\n"), "health_check.on_unhealthy", `line 2: health_check.on_unhealthy "kill" is unknown (known: none, restart)`, atWrite},
		{"restart of a word", with("restart: always\n"), "restart", `line 2: restart must be a map, like {policy: always}, not a string`, atWrite},
		{"restart policy", with("restart: {policy: allways}\n"), "restart.policy", `line 2: restart.policy "allways" is unknown (did you mean "always"?)`, atWrite},
		{"retries of always", with("restart: {policy: always, max_retries: 3}\n"), "restart", `line 2: restart.max_retries goes with policy on-failure only`, atWrite},
		{"retries without a policy yet", with("restart:\n  max_retries: 3\n"), "restart", `line 3: restart.max_retries goes with policy on-failure only`, atClose},
		{"expire at once", with("expire: {after: 0s}\n"), "expire.after", `line 2: expire.after 0s is out of range: it goes from 10ms to 8760h`, atWrite},
		{"expire in days", with("expire: {after: 1d}\n"), "expire.after", `line 2: expire.after "1d" is no duration: write days in hours, like 24h`, atWrite},
		{"expire never", with("expire: {after: 99999999h}\n"), "expire.after", `line 2: expire.after "99999999h" is too long`, atWrite},
		{"expire of nothing", with("expire:\n"), "expire", `line 2: expire has no value: it must be a map, like {after: 1h, idle: 15m} (or leave the key out)`, atClose},

		{"empty", "", "", `line 1: the config is empty: it needs at least a command, like command: [sleep, "60"]`, atClose},
		{"comment only", "# nothing\n", "", `line 1: the config is empty: it needs at least a command, like command: [sleep, "60"]`, atClose},
		{"null document", "--- ~\n", "", `line 1: the config is empty: it needs at least a command, like command: [sleep, "60"]`, atClose},
		{"no command", "user: root\n", "command", `line 1: command is missing: add what the box runs, like command: [sleep, "60"]`, atClose},
		{"no command, closed", "{user: root}\n", "command", `line 1: command is missing: add what the box runs, like command: [sleep, "60"]`, atWrite},
		{"text", "sleep 60\n", "", `line 1: the config must be a map of keys, like command: [sleep, "60"], not a string`, atWrite},
		{"list", "- a\n", "", `line 1: the config must be a map of keys, like command: [sleep, "60"], not a list`, atWrite},
		{"two documents", "command: [a]\n---\ncommand: [b]\n", "", `line 2: only one document is allowed: remove the line "---"`, atWrite},
		{"empty second document", "command: [a]\n---\n", "", `line 2: only one document is allowed: remove the line "---"`, atWrite},

		{"command string", "\ncommand: sleep 60\n", "command", `line 2: command must be a list of words, like [sleep, "60"], not a string`, atWrite},
		{"command number", "command: 60\n", "command", `line 1: command must be a list of words, like [sleep, "60"], not a number`, atWrite},
		{"command map", "command: {a: b}\n", "command", `line 1: command must be a list of words, like [sleep, "60"], not a map`, atWrite},
		{"command nothing", "command:\n", "command", `line 1: command has no value: it must be a list of words, like [sleep, "60"] (or leave the key out)`, atClose},
		{"command empty", "command: []\n", "command", `line 1: command is empty: name what is run, like [sleep, "60"]`, atWrite},
		{"command empty word", "command: [\"\", a]\n", "command[0]", `line 1: command[0] is empty: name the program, like [sleep, "60"]`, atWrite},
		{"command null word", "command:\n- a\n- ~\n- b\n", "command[1]", `line 3: command[1] has no value: it must be a word, like "60" (or leave the key out)`, atWrite},
		{"command last word null", "command:\n- a\n-\n", "command[1]", `line 3: command[1] has no value: it must be a word, like "60" (or leave the key out)`, atClose},
		{"command list word", "command: [a, [b]]\n", "command[1]", `line 1: command[1] must be a word, like "60", not a list`, atWrite},
		{"command NUL", "command: [\"a\\0\"]\n", "command[0]", `line 1: command[0] holds a NUL byte`, atWrite},

		{"env list", with("env: [A=s3cret]\n"), "env", `line 2: env must be a map, like {LANG: C.UTF-8}, not a list`, atWrite},
		{"env value list", with("env:\n  A: [s3cret]\n"), "env.A", `line 3: env.A must be a string, like "1", not a list`, atWrite},
		{"env value null", with("env: {A: }\n"), "env.A", `line 2: env.A has no value: it must be a string, like "1" (or leave the key out)`, atWrite},
		{"env name with =", with("env: {A=s3cret: b}\n"), "env.A=...", `line 2: env name "A=..." holds a "=": write NAME: value`, atWrite},
		{"env written as NAME=value", with("env: {A=s3cret}\n"), "env.A=...", `line 2: env name "A=..." holds a "=": write NAME: value`, atWrite},
		{"env empty name", with("env: {\"\": b}\n"), "env", `line 2: a key must be a word, not nothing`, atWrite},
		{"env name control", with("env: {\"a\\nb\": b}\n"), "env.a\nb", `line 2: env name "a\nb" holds a control character`, atWrite},
		{"env NUL", with("env: {A: \"s3cret\\0\"}\n"), "env.A", `line 2: env.A holds a NUL byte`, atWrite},

		{"workdir relative", with("workdir: srv\n"), "workdir", `line 2: workdir "srv" is not absolute: start it with a /`, atWrite},
		{"workdir empty", with("workdir: \"\"\n"), "workdir", `line 2: workdir "" is not absolute: start it with a /`, atWrite},
		{"workdir not clean", with("workdir: /srv/../x/\nautostart: true\n"), "workdir", `line 2: workdir "/srv/../x/" is not clean: write "/x"`, atWrite},
		{"workdir not clean yet", with("workdir: /srv/\n"), "workdir", `line 2: workdir "/srv/" is not clean: write "/srv"`, atClose},
		{"workdir list", with("workdir: [/srv]\n"), "workdir", `line 2: workdir must be an absolute path, like /srv, not a list`, atWrite},
		{"workdir control", with("workdir: \"/a\\nb\"\n"), "workdir", `line 2: workdir holds a control character`, atWrite},
		{"workdir long", with("workdir: /" + strings.Repeat("x", 4095) + "\n"), "workdir", `line 2: workdir is 4096 bytes long, the limit is 4095`, atWrite},

		{"user", with("user: \"no body\"\n"), "user", `line 2: user "no body" is no user: write a name or uid, like nobody, 1000 or "1000:1000"`, atWrite},
		{"user without group", with("user: \"root:\"\n"), "user", `line 2: user "root:" is no user: write a name or uid, like nobody, 1000 or "1000:1000"`, atWrite},
		{"user negative", with("user: -1\n"), "user", `line 2: user "-1" is no user: write a name or uid, like nobody, 1000 or "1000:1000"`, atWrite},
		{"user too large", with("user: 0:4294967295\n"), "user", `line 2: user "0:4294967295" is out of range: ids go from 0 to 4294967294`, atWrite},
		{"user map", with("user: {uid: 0}\n"), "user", `line 2: user must be a user, like nobody or "1000:1000", not a map`, atWrite},

		{"engine container", with("engine: container\n"), "engine", `line 2: engine container needs a file system: add image: docker://… or rootfs: /dir`, atClose},
		{"engine vm", with("engine: vm\n"), "engine", `line 2: engine "vm" is not supported yet (engines here: host, container)`, atWrite},
		{"engine misspelt", with("engine: hots\n"), "engine", `line 2: engine "hots" is unknown (known: host, container)`, atWrite},
		{"engine list", with("engine: [host]\n"), "engine", `line 2: engine must be an engine, like host or container, not a list`, atWrite},
		{"hostname", with("hostname: a_b\n"), "hostname", `line 2: hostname "a_b" is no host name: use a-z A-Z 0-9 and - inside, like web-1`, atWrite},
		{"hostname dot", with("hostname: a.\n"), "hostname", `line 2: hostname "a." is no host name: use a-z A-Z 0-9 and - inside, like web-1`, atWrite},
		{"hostname long", with("hostname: " + strings.Repeat("a.", 32) + "b\n"), "hostname", `line 2: hostname is 65 bytes long, the limit is 64`, atWrite},
		{"hostname list", with("hostname: [a]\n"), "hostname", `line 2: hostname must be a host name, like web-1, not a list`, atWrite},
		{"network", with("network: hsot\n"), "network", `line 2: network "hsot" is unknown (known: host, none)`, atWrite},
		{"network near", with("network: hosts\n"), "network", `line 2: network "hosts" is unknown (did you mean "host"?)`, atWrite},
		{"network list", with("network: [none]\n"), "network", `line 2: network must be host or none, not a list`, atWrite},

		{"mounts map", with("mounts: {a: b}\n"), "mounts", `line 2: mounts must be a list of maps, like [{source: /srv/www, target: /www, readonly: true}], not a map`, atWrite},
		{"mount string", with("mounts: [\"/a:/b\"]\n"), "mounts[0]", `line 2: mounts[0] must be a map, like {source: /srv/www, target: /www, readonly: true}, not a string`, atWrite},
		{"mount without target", with("mounts:\n- source: /a\n- {source: /a, target: /b}\n"), "mounts[0]", `line 3: mounts[0] has no target: write it like {source: /srv/www, target: /www, readonly: true}`, atWrite},
		{"mount without target yet", with("mounts:\n- source: /a\n"), "mounts[0]", `line 3: mounts[0] has no target: write it like {source: /srv/www, target: /www, readonly: true}`, atClose},
		{"mount without source", with("mounts: [{target: /a}]\n"), "mounts[0]", `line 2: mounts[0] has no source: write it like {source: /srv/www, target: /www, readonly: true}`, atWrite},
		{"mount source relative", with("mounts: [{source: a, target: /b}]\n"), "mounts[0].source", `line 2: mounts[0].source "a" is not absolute: start it with a /`, atWrite},
		{"mount target root", with("mounts: [{source: /a, target: /}]\n"), "mounts[0].target", `line 2: mounts[0].target "/" cannot be mounted over: name a directory below it`, atWrite},
		{"mount target twice", with("mounts:\n- {source: /a, target: /b}\n- {source: /c, target: /b}\n"), "mounts[1].target", `line 4: mounts[1].target "/b" is mounted over already on line 3`, atWrite},
		{"mount readonly", with("mounts: [{source: /a, target: /b, readonly: yes}]\n"), "mounts[0].readonly", `line 2: mounts[0].readonly must be true or false, not a string`, atWrite},
		{"mount key", with("mounts: [{source: /a, target: /b, read_only: true}]\n"), "mounts[0].read_only", `line 2: unknown key "mounts[0].read_only" (did you mean "mounts[0].readonly"?)`, atWrite},

		{"rlimits list", with("rlimits: [nofile]\n"), "rlimits", `line 2: rlimits must be a map, like {nofile: 4096}, not a list`, atWrite},
		{"rlimit name", with("rlimits: {nofiles: 1}\n"), "rlimits.nofiles", `line 2: unknown rlimit "nofiles" (did you mean "nofile"?)`, atWrite},
		{"rlimit full name", with("rlimits: {RLIMIT_NOFILE: 1}\n"), "rlimits.RLIMIT_NOFILE", `line 2: unknown rlimit "RLIMIT_NOFILE" (did you mean "nofile"?)`, atWrite},
		{"rlimit word", with("rlimits: {nofile: many}\n"), "rlimits.nofile", `line 2: rlimits.nofile must be a number or unlimited, like 4096, not a string`, atWrite},
		{"rlimit quoted", with("rlimits: {nofile: \"1\"}\n"), "rlimits.nofile", `line 2: rlimits.nofile must be a number or unlimited, like 4096, not a string`, atWrite},
		{"rlimit negative", with("rlimits: {nofile: -1}\n"), "rlimits.nofile", `line 2: rlimits.nofile -1 is no limit: write a whole number from 0 to 18446744073709551615, or unlimited`, atWrite},
		{"rlimit fraction", with("rlimits: {nofile: 1.5}\n"), "rlimits.nofile", `line 2: rlimits.nofile 1.5 is no limit: write a whole number from 0 to 18446744073709551615, or unlimited`, atWrite},
		{"rlimit too large", with("rlimits: {nofile: 18446744073709551616}\n"), "rlimits.nofile", `line 2: rlimits.nofile 18446744073709551616 is no limit: write a whole number from 0 to 18446744073709551615, or unlimited`, atWrite},
		{"rlimit null", with("rlimits:\n  nofile:\n"), "rlimits.nofile", `line 3: rlimits.nofile has no value: it must be a number or unlimited, like 4096 (or leave the key out)`, atClose},

		{"security list", with("security: [a]\n"), "security", `line 2: security must be a map, like {no_new_privileges: true}, not a list`, atWrite},
		{"security bool", with("security: {no_new_privileges: 1}\n"), "security.no_new_privileges", `line 2: security.no_new_privileges must be true or false, not a number`, atWrite},
		{"security quoted bool", with("security: {readonly_rootfs: \"true\"}\n"), "security.readonly_rootfs", `line 2: security.readonly_rootfs must be true or false, not a string`, atWrite},
		{"capabilities list", with("security: {capabilities: [NET_RAW]}\n"), "security.capabilities", `line 2: security.capabilities must be a map, like {drop: [ALL], add: [NET_BIND_SERVICE]}, not a list`, atWrite},
		{"capabilities add string", with("security: {capabilities: {add: NET_RAW}}\n"), "security.capabilities.add", `line 2: security.capabilities.add must be a list of capabilities, like [NET_BIND_SERVICE], not a string`, atWrite},
		{"capability near", with("security: {capabilities: {add: [CAP_NET_RAWW]}}\n"), "security.capabilities.add[0]", `line 2: security.capabilities.add[0] is an unknown capability "CAP_NET_RAWW" (did you mean "NET_RAW"?)`, atWrite},
		{"capability far", with("security: {capabilities: {drop: [x]}}\n"), "security.capabilities.drop[0]", `line 2: security.capabilities.drop[0] is an unknown capability "x" (see capabilities(7))`, atWrite},

		{"stop string", with("stop: 10s\n"), "stop", `line 2: stop must be a map, like {signal: SIGTERM, timeout: 10s}, not a string`, atWrite},
		{"stop signal", with("stop: {signal: TREM}\n"), "stop.signal", `line 2: stop.signal is an unknown signal "TREM" (write it like TERM, SIGTERM or 15)`, atWrite},
		{"stop signal near", with("stop: {signal: SIGTERMM}\n"), "stop.signal", `line 2: stop.signal is an unknown signal "SIGTERMM" (did you mean "TERM"?)`, atWrite},
		{"stop signal list", with("stop: {signal: [TERM]}\n"), "stop.signal", `line 2: stop.signal must be a signal, like SIGTERM, not a list`, atWrite},
		{"stop timeout bare", with("stop: {timeout: 10}\n"), "stop.timeout", `line 2: stop.timeout "10" has no unit: write it like 10s`, atWrite},
		{"stop timeout negative", with("stop: {timeout: -10s}\n"), "stop.timeout", `line 2: stop.timeout "-10s" is negative: write it like 10s`, atWrite},
		{"stop timeout word", with("stop: {timeout: soon}\n"), "stop.timeout", `line 2: stop.timeout "soon" is no duration: write it like 10s or 1m30s`, atWrite},
		{"stop timeout overflow", with("stop: {timeout: 9999999999h}\n"), "stop.timeout", `line 2: stop.timeout "9999999999h" is too long`, atWrite},
		{"stop timeout list", with("stop: {timeout: [10s]}\n"), "stop.timeout", `line 2: stop.timeout must be a duration, like 10s, not a list`, atWrite},

		{"autostart", with("autostart: 1\n"), "autostart", `line 2: autostart must be true or false, not a number`, atWrite},
		{"remove_on_exit", with("remove_on_exit: on\n"), "remove_on_exit", `line 2: remove_on_exit must be true or false, not a string`, atWrite},
		{"detach", with("detach: [true]\n"), "detach", `line 2: detach must be true or false, not a list`, atWrite},

		{"log size", with("log: 10MiB\n"), "log", `line 2: log must be a map, like {max_size: 10MiB}, not a string`, atWrite},
		{"log small", with("log: {max_size: 4095}\n"), "log.max_size", `line 2: log.max_size "4095" is too small: it must be at least 4KiB`, atWrite},
		{"log small yet", with("log:\n  max_size: 10\n"), "log.max_size", `line 3: log.max_size "10" is too small: it must be at least 4KiB`, atClose},
		{"log negative", with("log: {max_size: -1MiB}\n"), "log.max_size", `line 2: log.max_size "-1MiB" is negative: write it like 10MiB`, atWrite},
		{"log unit", with("log: {max_size: 10Mib/s}\n"), "log.max_size", `line 2: log.max_size "10Mib/s" is no size: write it like 64KiB, 10MiB or 2GB`, atWrite},
		{"log comma", with("log: {max_size: \"10,000\"}\n"), "log.max_size", `line 2: log.max_size "10,000" is no size: write it like 64KiB, 10MiB or 2GB`, atWrite},
		{"log over int64", with("log: {max_size: 9223372036854775808}\n"), "log.max_size", `line 2: log.max_size "9223372036854775808" is too large`, atWrite},
		{"log over uint64", with("log: {max_size: 99999999999999999999}\n"), "log.max_size", `line 2: log.max_size "99999999999999999999" is too large`, atWrite},
		{"log list", with("log: {max_size: [1]}\n"), "log.max_size", `line 2: log.max_size must be a size, like 10MiB, not a list`, atWrite},

		{"labels list", with("labels: [a]\n"), "labels", `line 2: labels must be a map, like {team: web}, not a list`, atWrite},
		{"label name", with("labels: {-a: b}\n"), "labels.-a", `line 2: label "-a" is no valid name: use up to 63 of a-z A-Z 0-9 _ . / -, a letter or digit first`, atWrite},
		{"label long name", with("labels: {" + strings.Repeat("a", 64) + ": b}\n"), "labels." + strings.Repeat("a", 64), `line 2: label "` + strings.Repeat("a", 64) + `" is no valid name: use up to 63 of a-z A-Z 0-9 _ . / -, a letter or digit first`, atWrite},
		{"label lines", with("labels: {a: \"b\\nc\"}\n"), "labels.a", `line 2: labels.a holds a control character: a label is one line of text`, atWrite},
		{"label long", with("labels: {a: " + long + "}\n"), "labels.a", `line 2: labels.a is 257 bytes long, the limit is 256`, atWrite},

		{"alias", "command: &a [x]\nenv: {A: *a}\n", "command", `line 1: anchors are not supported: quote a value that starts with &`, atWrite},
		{"alias only", "command: [a, *s3cret]\n", "", `line 1: aliases are not supported: quote a value that starts with *`, atWrite},
		{"anchor on nothing", "command: &a\n", "command", `line 1: anchors are not supported: quote a value that starts with &`, atWrite},
		{"merge key", with("env:\n  <<: {A: b}\n"), "env", `line 3: merge keys (<<) are not supported: write the keys out`, atWrite},
		{"tag", "command: !!str a\n", "command", `line 1: tags are not supported: quote a value that starts with !`, atWrite},
		{"list as key", "? [a]\n: b\n", "", `line 1: a key must be a word, not a list`, atWrite},

		{"NUL", with("user: ro\x00ot\n"), "", `line 2: the text holds a NUL byte`, atWrite},
		{"not UTF-8", with("user: \xff\n"), "", `line 2: the text is not valid UTF-8`, atWrite},
		{"escape character", with("user: \x1b[0m\n"), "", `line 2: the text holds the control character U+001B: write it as "\u001b"`, atWrite},
		{"line separator", with("user: a\u2028b\n"), "", `line 2: the text holds the control character U+2028: write it as "\u2028"`, atWrite},
		{"lone carriage return", with("user: a\rb\n"), "", `line 2: a carriage return stands alone: end lines with \n, or write it as "\r"`, atWrite},

		{"unclosed list", "command: [a\nuser: root\n", "", `line 2: expected "," or "]"`, atWrite},
		{"unclosed list at end", "command: [a,\n  b\n", "", `line 2: the text ends too early: missing ]`, atClose},
		{"unclosed quote", "command: [\"a\n", "", `line 1: the text ends too early: missing "]`, atClose},
		{"one bracket too many", "command: [a]]\n", "", `line 1: expected a key: check the indentation and the quotes`, atWrite},
		{"colon in value", "command: [a]\nuser: a: b\n", "", `line 2: unexpected ": ": a value that holds one must be quoted`, atWrite},
		{"tab", "command:\n\t- a\n", "", "line 2: indent with spaces, not tabs, and quote a value that starts with @, % or `", atWrite},
		{"line without colon", "command: [a]\nautostart\n", "", `line 2: expected "key: value"`, atWrite},
		{"bad indentation", "command: [a]\n  user: root\n", "", `line 2: expected a key: check the indentation and the quotes`, atWrite},
		{"star", "command: [ls, *]\n", "", `line 1: quote a value that starts with * or &`, atWrite},
		{"escape", "command: [\"\\d\"]\n", "", `line 1: unknown escape in a quoted value: write \\ for a backslash, or use single quotes`, atWrite},
		{"text after map", "{command: [a]}\nuser: b\n", "", `line 2: unexpected text after the end of the map`, atWrite},
		{"too deep", "command: " + strings.Repeat("[", 20000) + "\n", "", "", atWrite},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := Parse("web", []byte(c.text))
			if cfg != nil {
				t.Fatalf("accepted: %+v", cfg)
			}
			checkError(t, err, c.key, c.want)
			err = CheckPrefix("web", []byte(c.text))
			if c.when == atWrite {
				checkError(t, err, c.key, c.want)
			} else if err != nil {
				t.Errorf("the write is refused: %v", err)
			}
		})
	}
}

func checkError(t *testing.T, err error, key, want string) {
	t.Helper()
	var ce *Error
	if !errors.As(err, &ce) {
		t.Fatalf("got %#v, want an *Error", err)
	}
	if want != "" && err.Error() != want {
		t.Errorf("\ngot  %s\nwant %s", err, want)
	}
	if ce.Key != key || ce.Box != "web" {
		t.Errorf("got key %q of box %q, want key %q of box web", ce.Key, ce.Box, key)
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the message repeats a value: %s", err)
	}
}
