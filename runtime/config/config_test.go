package config

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDefaults(t *testing.T) {
	got, err := Parse("web", []byte("command: [sleep, 60]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Command:  []string{"sleep", "60"},
		Env:      map[string]string{},
		Workdir:  "/",
		User:     "root",
		Engine:   "host",
		Pull:     PullMissing,
		Overlay:  true,
		Init:     true,
		Hostname: "web",
		Network:  "host",
		Rlimits:  map[string]Rlimit{"nofile": {1024, 1024}},
		Security: Security{Profile: ProfileDefault, NoNewPrivileges: true},
		Health:   HealthCheck{Interval: 30 * time.Second, Timeout: 10 * time.Second, Retries: 3, StartPeriod: time.Minute, OnUnhealthy: "none"},
		Restart:  Restart{Policy: "no"},
		Stop:     Stop{Timeout: 10 * time.Second},
		Detach:   true,
		Log:      Log{MaxSize: 10 << 20},
		Labels:   map[string]string{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// fullConfig uses every key.
const fullConfig = `# a box
command:
- /bin/sh
- -c
- |
  echo one
  exec sleep 60
env:
  LANG: C.UTF-8
  N: 60
  ON: true
  EMPTY: ""
  FLOAT: 1.50
  TEXT: several words
    on two lines
workdir: "/srv/my app"
user: nobody:1000
engine: host
hostname: web-1.example
network: none
mounts:
- {source: /srv/www, target: /www, readonly: true}
- source: /tmp
  target: /data
resources: {cpus: 1.5, memory: 512MiB, pids: 1024}
rlimits:
  core: 0
  memlock: unlimited
security:
  no_new_privileges: false
  capabilities:
    add: [cap_net_raw, NET_BIND_SERVICE]
    drop: [all]
  readonly_rootfs: true
health_check:
  disabled: true
  command: [curl, -fsS, localhost]
  interval: 100ms
  timeout: 1s
  retries: 5
  start_period: 0s
  on_unhealthy: restart
restart:
  policy: on-failure
  max_retries: 7
expire:
  after: 1h30m
  idle: 15m
stop:
  signal: int
  timeout: 1m30s
autostart: true
remove_on_exit: true
detach: false
log:
  max_size: 64KiB
labels:
  example.com/team: web 2
  n: 1
`

func TestEveryKey(t *testing.T) {
	got, err := Parse("web", []byte(fullConfig))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Command: []string{"/bin/sh", "-c", "echo one\nexec sleep 60\n"},
		Env: map[string]string{"LANG": "C.UTF-8", "N": "60", "ON": "true", "EMPTY": "",
			"FLOAT": "1.50", "TEXT": "several words on two lines"},
		Workdir:  "/srv/my app",
		User:     "nobody:1000",
		Engine:   "host",
		Pull:     PullMissing,
		Overlay:  true,
		Init:     true,
		Hostname: "web-1.example",
		Network:  "none",
		Mounts: []Mount{
			{Source: "/srv/www", Target: "/www", ReadOnly: true},
			{Source: "/tmp", Target: "/data"},
		},
		Resources: Resources{CPUs: 1.5, Memory: 512 << 20, Pids: 1024},
		Rlimits: map[string]Rlimit{
			"nofile":  {1024, 1024},
			"core":    {0, 0},
			"memlock": {RlimitInfinity, RlimitInfinity},
		},
		Security: Security{
			Profile: ProfileDefault,
			Capabilities: Capabilities{
				Add: []string{"CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}, Drop: []string{"ALL"},
			},
			ReadonlyRootfs: true,
		},
		Health: HealthCheck{
			Disabled: true, Command: []string{"curl", "-fsS", "localhost"}, Interval: 100 * time.Millisecond, Timeout: time.Second,
			Retries: 5, OnUnhealthy: "restart",
		},
		Restart:      Restart{Policy: "on-failure", MaxRetries: 7},
		Expire:       Expire{After: 90 * time.Minute, Idle: 15 * time.Minute},
		Stop:         Stop{Signal: syscall.SIGINT, Timeout: 90 * time.Second},
		Autostart:    true,
		RemoveOnExit: true,
		Log:          Log{MaxSize: 64 << 10},
		Labels:       map[string]string{"example.com/team": "web 2", "n": "1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// with gives a valid config with more lines after the command.
func with(lines string) string { return "command: [a]\n" + lines }

func TestAccepts(t *testing.T) {
	cases := []struct {
		text string
		get  func(*Config) any
		want any
	}{
		{"command: [60, true, 1.50, 0x1f, 2001-01-01, yes]\n", func(c *Config) any { return c.Command },
			[]string{"60", "true", "1.50", "0x1f", "2001-01-01", "yes"}},
		{`command: [a, "", "null", '~', "\e[0m\n"]`, func(c *Config) any { return c.Command },
			[]string{"a", "", "null", "~", "\x1b[0m\n"}},
		{"{command: [a], hostname: b}", func(c *Config) any { return c.Hostname }, "b"},
		{"---\ncommand: [a]\n...\n", func(c *Config) any { return c.Command }, []string{"a"}},
		{"command: [a]\r\nhostname: b\r\n", func(c *Config) any { return c.Hostname }, "b"},
		{"\ufeffcommand: [a]\n", func(c *Config) any { return c.Command }, []string{"a"}},
		{with("env: {}\n"), func(c *Config) any { return c.Env }, map[string]string{}},
		{with("env: {\"<<\": a, A.b-c: \"x=y\"}\n"), func(c *Config) any { return c.Env }, map[string]string{"<<": "a", "A.b-c": "x=y"}},
		{with("user: 0\n"), func(c *Config) any { return c.User }, "0"},
		{with("user: 1000:1000\n"), func(c *Config) any { return c.User }, "1000:1000"},
		{with("user: 4294967294\n"), func(c *Config) any { return c.User }, "4294967294"},
		{with("user: www-data:adm\n"), func(c *Config) any { return c.User }, "www-data:adm"},
		{with("hostname: 1\n"), func(c *Config) any { return c.Hostname }, "1"},
		{with("hostname: " + strings.Repeat("a", 62) + ".b\n"), func(c *Config) any { return c.Hostname }, strings.Repeat("a", 62) + ".b"},
		{with("mounts: []\n"), func(c *Config) any { return len(c.Mounts) }, 0},
		{with("resources: {}\n"), func(c *Config) any { return c.Resources }, Resources{}},
		{with("resources:\n  cpus: 0.01\n  memory: 1MiB\n  pids: 1\n"), func(c *Config) any { return c.Resources }, Resources{CPUs: 0.01, Memory: 1 << 20, Pids: 1}},
		{with("rlimits: {nofile: 4096}\n"), func(c *Config) any { return c.Rlimits }, map[string]Rlimit{"nofile": {4096, 4096}}},
		{with("rlimits: {nproc: 18446744073709551615}\n"), func(c *Config) any { return c.Rlimits["nproc"].Hard }, RlimitInfinity},
		{with("security: {no_new_privileges: False}\n"), func(c *Config) any { return c.Security.NoNewPrivileges }, false},
		{with("security: {readonly_rootfs: true}\n"), func(c *Config) any { return c.Security.NoNewPrivileges }, true},
		{with("stop: {signal: 15}\n"), func(c *Config) any { return c.Stop.Signal }, syscall.SIGTERM},
		{with("stop: {timeout: 0}\n"), func(c *Config) any { return c.Stop }, Stop{}},
		{with("stop: {timeout: 1.5s}\n"), func(c *Config) any { return c.Stop.Timeout }, 1500 * time.Millisecond},
		{with("health_check: {}\n"), func(c *Config) any { return c.Health.Disabled }, false},
		{with("health_check: {tcp: 65535, timeout: 10ms}\n"), func(c *Config) any { return c.Health.TCP }, uint16(65535)},
		{with("health_check: {http: \"http://[::1]:8080/a?b\"}\n"), func(c *Config) any { return c.Health.HTTP }, "http://[::1]:8080/a?b"},
		{with("health_check: {start_period: 0}\n"), func(c *Config) any { return c.Health.StartPeriod }, time.Duration(0)},
		{with("restart: {policy: no}\n"), func(c *Config) any { return c.Restart }, Restart{Policy: "no"}},
		{with("restart: {max_retries: 1, policy: on-failure}\n"), func(c *Config) any { return c.Restart }, Restart{"on-failure", 1}},
		{with("expire: {idle: 10ms}\n"), func(c *Config) any { return c.Expire }, Expire{Idle: 10 * time.Millisecond}},
		{with("log: {max_size: 4096}\n"), func(c *Config) any { return c.Log.MaxSize }, int64(4096)},
		{with("log: {max_size: 1.5 MiB}\n"), func(c *Config) any { return c.Log.MaxSize }, int64(3 << 19)},
		{with("log: {max_size: 2GB}\n"), func(c *Config) any { return c.Log.MaxSize }, int64(2_000_000_000)},
		{with("log: {max_size: 9223372036854775807}\n"), func(c *Config) any { return c.Log.MaxSize }, int64(math.MaxInt64)},
		{with("labels: {a/b.c-d_e: \"\"}\n"), func(c *Config) any { return c.Labels }, map[string]string{"a/b.c-d_e": ""}},
	}
	for _, c := range cases {
		cfg, err := Parse("box", []byte(c.text))
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if got := c.get(cfg); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}

// A hostile text of the greatest size must neither blow up nor take long.
func TestHostile(t *testing.T) {
	// The processor time of one thread: others are not waited for.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	used := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
			t.Fatal(err)
		}
		return time.Duration(ts.Nano())
	}
	fill := func(unit string) string { return strings.Repeat(unit, (MaxSize-16)/len(unit)) }
	bomb := "a: &a [x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for name, text := range map[string]string{
		"alias bomb": bomb,
		"brackets":   fill("["), "braces": fill("{"), "lines of brackets": fill("[\n"), "maps": fill("{a: "),
		"dashes": fill("- "), "questions": fill("? "), "quotes": fill(`"`), "open quote": `a: "` + fill("x\n"),
		"comments": fill("#\n"), "keys": fill("a:\n"), "broken at the end": fill("a: b\n") + "]\n", "long key": fill("k"),
		"broken in the middle":   fill(`a: ["x", 'y', {z: {}}]` + "\n")[:MaxSize/2] + "\n]\n" + fill("a: b\n")[:MaxSize/3],
		"broken flow at the end": fill(`a: ["x", 'y', {z: {}}]` + "\n")[:MaxSize/4] + "\n]\n",
	} {
		start := used()
		if _, err := Parse("web", []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		var ce *Error
		if err := CheckPrefix("web", []byte(text)); err != nil && !errors.As(err, &ce) {
			t.Errorf("%s: got %v", name, err)
		}
		// Seconds are the worst on a slow machine; what grows without bound
		// would take hours.
		if took := used() - start; took > time.Minute {
			t.Errorf("%s: took %v", name, took)
		} else {
			t.Logf("%s: %v", name, took)
		}
	}
}

// A key at fault is shown without what may be a value, and never at length.
func TestErrorHidesValues(t *testing.T) {
	for _, text := range []string{
		"command: [a]\nenv: TOKEN=s3cret\n", "command: [a]\nenv:\n- TOKEN=s3cret\n", "command: [a]\nenv:\nTOKEN=s3cret: 1\n",
		"command: [a]\nenv: {TOKEN: *s3cret}\n", "command: [a]\nenv: {TOKEN: s3cret\n", "command: [a]\nenv:\n  TOKEN: \"s3cret\\q\"\n",
		"command: [a]\nenv:\n  TOKEN: !s3cret a\n", "command: [a]\nenv:\n  TOKEN: &s3cret a\n", "command: [a]\nenv:\n  TOKEN: a: s3cret\n",
	} {
		_, err := Parse("web", []byte(text))
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), "s3cret") {
			t.Errorf("%q: got %v", text, err)
		}
	}
	_, err := Parse("web", bytes.Repeat([]byte("k"), 1000))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("got %v", err)
	}
}
