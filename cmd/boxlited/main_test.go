package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		want string // part of the error, or the mount and state that come out
	}{
		{"--mount /a --state /b", "/a /b"},
		{"--mount " + link + " --state /b", dir + "/target /b"},
		{"--mount " + link + "/x --state " + dir + "/y/../z", dir + "/target/x " + dir + "/z"},
		{"--mount /a --state /a/b", "is under --mount"},
		{"--mount " + dir + "/target --state " + link + "/state", "is under --mount"},
		{"--mount /a/b --state /a", "is under --state"},
		{"--mount /a --state /a", "is under --mount"},
		{"--mount /ab --state /a", "/ab /a"},
		{"--mount " + loop + " --state /b", "too many levels"},
		{"--mount= --state /a", "must not be empty"},
		{"--log-level loud", "must be error, warn, info or debug"},
		{"--log-format xml", "must be text or json"},
		{"--max-probes 0", "must be from 1 to 65536"},
		{"--mount /a --state /b --metrics-listen 127.0.0.1:9120", "/a /b"},
		{"--metrics-listen 9120", `--metrics-listen "9120": must be an IP address or localhost, and a port`},
		{"--registry-config /nowhere", "--registry-config: registry configuration: "},
		{"--bogus", "not defined: -bogus"},
		{"extra", `unexpected argument "extra"`},
	} {
		opt, err := parse(strings.Fields(c.args))
		got := opt.mount + " " + opt.state
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.args, got, c.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for args, want := range map[string]int{
		"--help": exitOK, "--version": exitOK, "--bogus": exitUsage, "--shim /nowhere/boxlite-shim": exitShim, "--shim /etc/passwd": exitShim,
	} {
		var out, err bytes.Buffer
		if got := run(strings.Fields(args), &out, &err); got != want {
			t.Errorf("%s: exit code %d, want %d (%s)", args, got, want, err.String())
		}
		if (want == exitOK) != (out.Len() > 0) || (want == exitOK) != (err.Len() == 0) {
			t.Errorf("%s: stdout %q, stderr %q", args, out.String(), err.String())
		}
	}
}
