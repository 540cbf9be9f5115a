package config

import (
	"fmt"
	"testing"
)

func TestProbeURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://localhost":              " 80 / localhost",
		"http://localhost:8080/a%20b?c": " 8080 /a%20b?c localhost:8080",
		"http://127.0.0.2/":             "127.0.0.2 80 / 127.0.0.2",
		"http://[::1]:9/x":              "::1 9 /x [::1]:9",
		"https://localhost/":            "!does not begin with http://",
		"localhost:80":                  "!does not begin with http://",
		"http://example.com/":           "!names a host that is neither localhost nor an address",
		"http:///x":                     "!names a host that is neither localhost nor an address",
		"http://a:b@localhost/":         "!has a user or a fragment",
		"http://localhost/#x":           "!has a user or a fragment",
		"http://localhost:0/":           "!has a port that is none",
		"http://[fe80::1%25eth0]/":      "!names a host that is neither localhost nor an address",
		"http://localhost/\n":           "!is no URL",
	} {
		addr, port, request, err := parseProbeURL(text)
		var got string
		if err != nil {
			got = "!" + err.Error()
		} else {
			var path, host string
			if _, err := fmt.Sscanf(request, "GET %s HTTP/1.1\r\nHost: %s\r\n", &path, &host); err != nil {
				t.Errorf("%s: request %q: %v", text, request, err)
			}
			got = fmt.Sprintf("%s %d %s %s", addr, port, path, host)
		}
		if got != want {
			t.Errorf("%s: %q, not %q", text, got, want)
		}
	}
}
