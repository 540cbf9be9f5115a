// Package functional holds one suite of what boxes do, run twice: against the core
// in this process, and against the files of a real daemon's mount. Both run real
// shims.
package functional

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/test/daemon"
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m)) }

// kind is what came of a request, in words that the core (by its sentinels) and
// the mount (by errno) share.
type kind string

const (
	fine         kind = "fine"
	invalid      kind = "invalid"       // EINVAL
	tooBig       kind = "too big"       // EFBIG, E2BIG
	exists       kind = "exists"        // EEXIST
	absent       kind = "absent"        // ENOENT
	gone         kind = "gone"          // ENODEV
	busy         kind = "busy"          // EBUSY
	unconfigured kind = "unconfigured"  // ENODATA
	noProcess    kind = "no process"    // ESRCH
	timedOut     kind = "timed out"     // ETIMEDOUT
	startFailed  kind = "start failed"  // EIO of a start
	canceled     kind = "canceled"      // ECANCELED
	interrupted  kind = "interrupted"   // EINTR
	denied       kind = "not permitted" // EPERM
)

// subject is what the suite runs against.
type subject interface {
	home() *daemon.Home

	create(name string) kind
	remove(name string) kind
	names() []string
	configure(name, text string) kind
	// begin gives a command line. If it is accepted the channel tells how the
	// command ended.
	begin(name, line string) (kind, <-chan kind)
	// read gives a file of the box without its last newline.
	read(name, file string) (string, kind)
	// watch opens a file of wait/ now.
	watch(name, file string) (waiter, kind)
	chown(name, file string, uid, gid, mode uint32) kind
	// touch is touch(1) of the box's directory.
	touch(name string) kind
	// lastError is the daemon's own.
	lastError() string
	// shut ends the daemon in order, crash without a chance to do anything, and
	// open starts one on the same directories.
	shut()
	crash()
	open()
}

// waiter is an open file of wait/. It is read once.
type waiter interface {
	result(ctx context.Context) (string, kind)
}

type testCase struct {
	name string
	run  func(t *testing.T, s subject)
}

func cases() []testCase {
	var all []testCase
	for _, group := range [][]testCase{lifecycleCases, configCases, waitCases, recoveryCases, faultCases, healthCases, restartCases, expireCases, crowdCases, tableCases} {
		all = append(all, group...)
	}
	return all
}

func TestCore(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newCore(t)
			s.open()
			c.run(t, s)
		})
	}
}

func TestMount(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newMount(t)
			s.open()
			c.run(t, s)
		})
	}
}

// Configurations that many cases use.
const (
	sleeper = "command: [sleep, infinity]\n"
	// stubborn says "ready" once it ignores SIGTERM.
	stubborn = `command: [sh, -c, "trap '' TERM; echo ready; exec sleep infinity"]` + "\n"
)

// script is the configuration of a box that runs a shell script of one line,
// which has no double quotes and backslashes.
func script(line string, more ...string) string {
	return `command: [sh, -c, "` + line + "\"]\n" + strings.Join(more, "")
}

func must(t *testing.T, what string, got kind) {
	t.Helper()
	want(t, what, got, fine)
}

func want(t *testing.T, what string, got, expected kind) {
	t.Helper()
	if got != expected {
		t.Fatalf("%s: %s, not %s", what, got, expected)
	}
}

// box makes a configured box.
func box(t *testing.T, s subject, name, config string) {
	t.Helper()
	must(t, "create "+name, s.create(name))
	if got := s.configure(name, config); got != fine {
		said, _ := s.read(name, "last_error")
		t.Fatalf("configure %s: %s: %s", name, got, said)
	}
}

// up makes a box and starts it.
func up(t *testing.T, s subject, name, config string) {
	t.Helper()
	box(t, s, name, config)
	do(t, s, name, "start")
}

// upReady makes a box, starts it and waits until it has said "ready".
func upReady(t *testing.T, s subject, name, config string) {
	t.Helper()
	up(t, s, name, config)
	awaitLog(t, s, name, "ready")
}

// try gives a command and returns how it was refused, or how it ended.
func try(t *testing.T, s subject, name, line string) kind {
	t.Helper()
	got, end := s.begin(name, line)
	if got != fine {
		return got
	}
	return ending(t, name+": "+line, end)
}

func do(t *testing.T, s subject, name, line string) {
	t.Helper()
	if got := try(t, s, name, line); got != fine {
		said, _ := s.read(name, "last_error")
		t.Fatalf("%s: %s: %s: %s", name, line, got, said)
	}
}

// start gives a command and does not wait for its end.
func start(t *testing.T, s subject, name, line string) <-chan kind {
	t.Helper()
	got, end := s.begin(name, line)
	must(t, name+": "+line, got)
	return end
}

func ending(t *testing.T, what string, end <-chan kind) kind {
	t.Helper()
	select {
	case k := <-end:
		return k
	case <-time.After(daemon.Bound):
		t.Fatalf("%s does not end", what)
		return ""
	}
}

// pending fails the test if a command has ended.
func pending(t *testing.T, what string, end <-chan kind) {
	t.Helper()
	select {
	case k := <-end:
		t.Fatalf("%s has ended already: %s", what, k)
	default:
	}
}

func read(t *testing.T, s subject, name, file string) string {
	t.Helper()
	text, k := s.read(name, file)
	must(t, "read "+name+"/"+file, k)
	return text
}

// is checks files of a box: pairs of a file and its text.
func is(t *testing.T, s subject, name string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := read(t, s, name, pairs[i]); got != pairs[i+1] {
			t.Errorf("%s/%s is %q, not %q", name, pairs[i], got, pairs[i+1])
		}
	}
}

// has checks that a file of a box has all the words in it.
func has(t *testing.T, s subject, name, file string, words ...string) {
	t.Helper()
	got := read(t, s, name, file)
	for _, w := range words {
		if !strings.Contains(got, w) {
			t.Errorf("%s/%s is %q, without %q", name, file, got, w)
		}
	}
}

func await(t *testing.T, s subject, name, file, text string) {
	t.Helper()
	daemon.Await(t, name+"/"+file+" to be "+text, func() bool {
		got, k := s.read(name, file)
		return k == fine && got == text
	})
}

func awaitLog(t *testing.T, s subject, name, text string) {
	t.Helper()
	daemon.Await(t, name+"/log to have "+text, func() bool {
		got, k := s.read(name, "log")
		return k == fine && strings.Contains(got, text)
	})
}

// result reads what a waiter gives, within the bound of all.
func result(t *testing.T, what string, w waiter) (string, kind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), daemon.Bound)
	defer cancel()
	text, k := w.result(ctx)
	if ctx.Err() != nil {
		t.Fatalf("%s: no answer", what)
	}
	return text, k
}

func watch(t *testing.T, s subject, name, file string) waiter {
	t.Helper()
	w, k := s.watch(name, file)
	must(t, "open "+name+"/wait/"+file, k)
	return w
}

// waits reads a file of wait/ to its answer.
func waits(t *testing.T, s subject, name, file string) string {
	t.Helper()
	text, k := result(t, name+"/wait/"+file, watch(t, s, name, file))
	must(t, name+"/wait/"+file, k)
	return text
}
