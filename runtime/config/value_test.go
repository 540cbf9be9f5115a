package config

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestSize(t *testing.T) {
	pad := func(n int) []byte {
		head := "command: [a]\n#"
		return []byte(head + strings.Repeat("x", n-len(head)-1) + "\n")
	}
	if _, err := Parse("web", pad(MaxSize)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := Parse("web", pad(MaxSize+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("over the limit: got %v", err)
	}
	if err := CheckPrefix("web", pad(MaxSize+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("over the limit, at the write: got %v", err)
	}
}

func TestParseSignal(t *testing.T) {
	good := map[string]syscall.Signal{
		"TERM": 15, "SIGTERM": 15, "term": 15, "sigterm": 15, "15": 15, "1": 1, "31": 31, "HUP": 1, "KILL": 9,
		"USR1": 10, "34": 34, "64": 64, "RTMIN": 34, "RTMIN+0": 34, "SIGRTMIN+3": 37, "rtmin+30": 64, "RTMAX": 64, "RTMAX-1": 63,
	}
	for text, want := range good {
		if got, err := ParseSignal(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "32", "33", "65", "99999999999999999999", "SIG", "TERM ", "RTMIN+31",
		"RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN++1", "RTMIN+-1", "SIGSIGTERM", "1.5", "FOO"} {
		if got, err := ParseSignal(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
	if _, err := ParseSignal("USR"); err == nil || !strings.Contains(err.Error(), `did you mean "USR1"?`) {
		t.Errorf("no suggestion: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	for _, name := range []string{"NET_RAW", "CAP_NET_RAW", "net_raw", "cap_net_raw"} {
		if n, err := capabilityByName(name); err != nil || n != 13 {
			t.Errorf("%q: got %d, %v, want 13", name, n, err)
		}
	}
	for n, name := range capabilityNames {
		if got, err := capabilityByName(name); err != nil || got != n {
			t.Errorf("capability %d %q: got %d, %v", n, name, got, err)
		}
	}
	for _, name := range []string{"", "CAP_", "ALL", "CAP_CAP_NET_RAW"} {
		if n, err := capabilityByName(name); err == nil {
			t.Errorf("%q: got %d, want an error", name, n)
		}
	}

	const all, raw, chown = uint64(1)<<41 - 1, uint64(1) << 13, uint64(1)
	cases := []struct {
		c             Capabilities
		all           uint64
		root          bool
		keep, ambient uint64
	}{
		{Capabilities{}, all, true, all, 0},
		{Capabilities{}, all, false, all, 0},
		{Capabilities{Drop: []string{"CAP_NET_RAW"}}, all, true, all &^ raw, 0},
		{Capabilities{Drop: []string{"ALL"}}, all, true, 0, 0},
		{Capabilities{Drop: []string{"ALL"}, Add: []string{"CAP_CHOWN"}}, all, true, chown, 0},
		{Capabilities{Drop: []string{"CAP_CHOWN"}, Add: []string{"CAP_CHOWN"}}, all, true, all, 0},
		{Capabilities{Add: []string{"CAP_NET_RAW"}}, all, false, all, raw},
		{Capabilities{Drop: []string{"ALL"}, Add: []string{"CAP_NET_RAW"}}, all, false, raw, raw},
		{Capabilities{Add: []string{"ALL"}}, all, false, all, all},
		{Capabilities{Add: []string{"CAP_NET_RAW", "CAP_CHOWN"}}, chown, false, chown, chown},
	}
	for _, c := range cases {
		if keep, ambient := c.c.Mask(c.all, c.root); keep != c.keep || ambient != c.ambient {
			t.Errorf("%+v root=%v: got %#x, %#x, want %#x, %#x", c.c, c.root, keep, ambient, c.keep, c.ambient)
		}
	}
}

func TestRlimitNumber(t *testing.T) {
	for name, want := range map[string]int{"cpu": 0, "stack": 3, "core": 4, "nofile": 7, "rttime": 15} {
		if got, ok := RlimitNumber(name); !ok || got != want {
			t.Errorf("%s: got %d, %v, want %d", name, got, ok, want)
		}
	}
	if len(rlimitNames) != 16 {
		t.Errorf("%d limits known, Linux has 16", len(rlimitNames))
	}
	if _, ok := RlimitNumber("NOFILE"); ok {
		t.Error("NOFILE: accepted")
	}
}
