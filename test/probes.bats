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
		! sed 's/\xef\xbf\xbd//g' <<<"$out" | grep -q $'[\x7f\x80-\x9f]' || fail "a control in $path: $out"
	done
	ctl y kill
}
