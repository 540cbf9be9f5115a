#!/usr/bin/env bats
#
# Probes of tcp and http: what they ask, and whom.

load helpers
load containers

setup() {
	common_setup
	start_daemon
}

# probe_of BOX KEY: what info.json says of the last probe.
probe_of() {
	json "$1" "probe.$2" >/dev/null
	echo "$out"
}

probed() { [[ $(probe_of "$1" time) != None ]]; }

# serve CODE: a box x with a server in a network of its own, which is python.
serve() {
	cat >"$W/server.py"
	box x "{command: [python3, $W/server.py], network: none, health_check: {http: 'http://localhost:8123/path?q', interval: 50ms, retries: 1}}"
	ctl x start
	becomes x health healthy
}

@test "an HTTP probe speaks 1.1, and takes what that may answer" {
	serve <<'P'
import http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(s):
        good = s.request_version == "HTTP/1.1" and s.headers["Host"] == "localhost:8123" and s.headers["Connection"] == "close" and s.path == "/path?q"
        s.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        s.send_response(200 if good else 426)
        s.send_header("Transfer-Encoding", "chunked")
        s.end_headers()
        s.wfile.write(b"2\r\nok\r\n5\r\nay\x7f\xc2\x9b\r\n0\r\n\r\n")
http.server.HTTPServer(("127.0.0.1", 8123), H).serve_forever()
P
	assert "$(probe_of x output)" = $'okay\x7f\xc2\x9b' "output, without the frames of its chunks"
	# What a terminal may obey is escaped.
	rd x/info.json
	assert "$out" has 'okay\u007f\u009b"' "output in info.json"
	ctl x kill
}

@test "C1 controls, DEL and what is no UTF-8 are shown as escapes, or not at all" {
	local path
	box x "$(printf 'command: ["/no/%s"]' 'a\x7fb\u0080c\u009b31md')"
	try "${ECHO[@]}" "$MNT/boxes/x/ctl" start
	is x status failed
	printf 'a\x7fb\xc2\x80c\xc2\x9b31md\x9be' >"$W/text"
	up y "{command: [sleep, infinity], health_check: {command: [cat, $W/text], interval: 50ms}}"
	await "a probe" 5 probed y
	rd y/info.json
	assert "$out" has '"output": "a\u007fb\u0080c\u009b31md'$'\xef\xbf\xbd''e"' "output in info.json"
	for path in x/last_error x/info.json x/events y/info.json y/events ../events ../metrics; do
		ok cat "$MNT/boxes/$path"
		# Bytes from 80 to 9f only go on in a character, here the one that stands for no UTF-8.
		! grep -q $'[\x7f\x80-\x9f]' <<<"${out//$'\xef\xbf\xbd'/}" || fail "a control in $path: $out"
	done
	ctl y kill
}

# free_port: sets PORT to one that nobody has.
free_port() {
	py 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
	PORT=$out
}

# SERVER ADDRESS: a server of the host's network, on $PORT.
server() { echo "[python3, -u, -m, http.server, --bind, '$1', '$PORT']"; }

# probe_says BOX TEXT: the reason of the last probe.
probe_says() { [[ $(probe_of "$1" reason) == *"$2"* ]]; }

@test "a port of the host that is another box's or nobody's of the boxes makes no box healthy" {
	local checks family
	free_port
	while read -r checks family; do
		checks="health_check: {$checks, interval: 100ms, retries: 1, start_period: 0s}"
		box a "$(printf '%s\n' "command: $(server "$family")" "workdir: $W" "$checks")"
		ctl a start
		becomes a health healthy
		up b "$(printf '%s\n' "$SLEEPER" "$checks")"
		becomes b health unhealthy
		await "its name" 5 probe_says b ' (python3) of box "a"'
		assert "$(probe_of b reason)" =~ '^another listens there: pid [0-9]+ \(python3\) of box "a"$' "reason"
		is a health healthy
		ctl a kill
		ctl b kill
		ok rmdir "$MNT/boxes/a" "$MNT/boxes/b"
	done <<-C
		"http":"http://127.0.0.1:$PORT/" 127.0.0.1
		"tcp":$PORT ::
	C
	bg outside python3 -u -m http.server --bind 127.0.0.1 "$PORT" --directory "$W/bin"
	await "the server" 10 grep -q Serving "$W/outside.out"
	checks="health_check: {tcp: $PORT, interval: 100ms, retries: 1, start_period: 0s}"
	up b "$(printf '%s\n' "$SLEEPER" "$checks")"
	becomes b health unhealthy
	await "its name" 5 probe_says b "another listens there: pid ${PID[outside]} (python3), of no box"
	kill "${PID[outside]}"
	join outside || :
	await "a refused probe" 5 probe_says b 'connection refused'
	ctl b kill
}

@test "a socket that a process of the box has from elsewhere is the box's, and so is one that it has passed on" {
	free_port
	cat >"$W/passes.py" <<-P
		import os, socket, sys, time
		s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
		s.bind(("127.0.0.1", $PORT)); s.listen()
		a, b = socket.socketpair()
		if os.fork() == 0:
		    if os.fork() == 0:
		        s.close()
		        _, fds, _, _ = socket.recv_fds(b, 1, 1)
		        time.sleep(1000)
		    os._exit(0)
		socket.send_fds(a, [b"x"], [s.fileno()])
		s.close()
		time.sleep(1000)
	P
	up x "{command: [python3, $W/passes.py], health_check: {tcp: $PORT, interval: 100ms, retries: 1, start_period: 0s}}"
	becomes x health healthy
	ctl x kill
}

@test "a container with the host's network is healthy by its own port only" {
	make_rootfs
	free_port
	for RT in crun runc; do
		up_box "$RT-x" "echo up; exec httpd -f -p $PORT -h /srv" 'network: host' "health_check: {tcp: $PORT, interval: 100ms, retries: 1, start_period: 0s}"
		becomes "$RT-x" health healthy
		up_box "$RT-y" 'echo up; sleep 1000' 'network: host' "health_check: {tcp: $PORT, interval: 100ms, retries: 1, start_period: 0s}"
		becomes "$RT-y" health unhealthy
		await "its name" 5 probe_says "$RT-y" " (httpd) of box \"$RT-x\""
		ctl "$RT-x" kill
		ctl "$RT-y" kill
	done
}
