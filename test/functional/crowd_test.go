package functional

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var crowdCases = []testCase{
	{"a thousand empty boxes", thousand},
	{"fifty clients with random commands for one box", hammered},
	{"ten boxes start and end at once", together},
	{"create and remove race for one name", nameRace},
}

func thousand(t *testing.T, s subject) {
	const n = 1000
	all := make([]string, 0, n)
	for i := range n {
		all = append(all, fmt.Sprintf("box-%04d", i))
	}
	for _, name := range all {
		must(t, "create", s.create(name))
	}
	if got := s.names(); !slices.Equal(got, all) {
		t.Errorf("%d boxes", len(got))
	}
	s.shut()
	began := time.Now()
	s.open()
	t.Logf("recovery of %d boxes: %s", n, time.Since(began))
	if got := s.names(); !slices.Equal(got, all) {
		t.Errorf("%d boxes after a restart", len(got))
	}
	for _, name := range all {
		is(t, s, name, "status", "empty")
		must(t, "remove", s.remove(name))
	}
	if got := s.names(); len(got) > 0 {
		t.Errorf("%d boxes after all were removed", len(got))
	}
}

// legal is the state table of the design.
var legal = map[string][]string{
	"empty":      {"configured"},
	"configured": {"starting"},
	"starting":   {"running", "stopping", "failed"},
	"running":    {"paused", "stopping", "stopped", "failed"},
	"paused":     {"running", "stopping", "stopped", "failed"},
	"stopping":   {"stopped", "failed"},
	"stopped":    {"starting"},
	"failed":     {"starting", "configured"},
}

// walk checks that every move in the events is legal and begins where the one
// before ended. It returns how many there were.
func walk(t *testing.T, events string) int {
	t.Helper()
	at, n, seq := "", 0, 0
	for line := range strings.Lines(events) {
		f := strings.Fields(line)
		if len(f) < 4 {
			t.Errorf("event %q", line)
			continue
		}
		if f[0] == "-" { // some were lost
			at = ""
			continue
		}
		var number int
		if _, err := fmt.Sscan(f[0], &number); err != nil || number <= seq {
			t.Errorf("event %q comes after number %d", line, seq)
		}
		seq = number
		if f[3] != "status" {
			continue
		}
		from, to := strings.TrimPrefix(f[4], "from="), strings.TrimPrefix(f[5], "to=")
		if at != "" && from != at || !slices.Contains(legal[from], to) {
			t.Errorf("after %q comes %q", at, line)
		}
		at = to
		n++
	}
	return n
}

func hammered(t *testing.T, s subject) {
	box(t, s, "x", script("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done", "stop: {timeout: 50ms}\n"))
	w := watch(t, s, "x", "event")
	told := make(chan string, 1)
	go func() {
		text, _ := w.result(context.Background())
		told <- text
	}()
	lines := []string{
		"start", "start", "start", "stop", "stop 10ms", "stop 0s", "kill", "restart", "restart 10ms",
		"pause", "resume", "resume", "signal WINCH", "signal TERM", "signal KILL",
	}
	// What a command may meet, whatever the others do.
	possible := func(line string, k kind) bool {
		switch strings.Fields(line)[0] {
		case "start":
			return k == fine || k == busy || k == startFailed // killed while it was starting
		case "restart":
			return k == fine || k == busy || k == startFailed || k == canceled
		case "pause", "resume", "signal":
			return k == fine || k == busy || k == noProcess
		}
		return k == fine
	}
	end := time.Now().Add(2 * time.Second)
	var clients sync.WaitGroup
	var mu sync.Mutex
	tally, odd := map[kind]int{}, map[string]int{}
	for range 50 {
		clients.Go(func() {
			for time.Now().Before(end) {
				line := lines[rand.IntN(len(lines))]
				k, done := s.begin("x", line)
				if k == fine {
					select {
					case k = <-done:
					case <-time.After(daemon.Bound):
						t.Errorf("%s does not end", line)
						return
					}
				}
				mu.Lock()
				tally[k]++
				if !possible(line, k) {
					odd[line+": "+string(k)]++
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	for what, n := range odd {
		t.Errorf("%s (%d times)", what, n)
	}
	do(t, s, "x", "kill")
	if got := read(t, s, "x", "status"); got != "stopped" && got != "failed" && got != "configured" {
		t.Errorf("status %q after the last kill", got)
	}
	is(t, s, "x", "pid", "-1")
	do(t, s, "x", "start")
	is(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
	must(t, "remove", s.remove("x"))
	select {
	case text := <-told:
		t.Logf("%v, %d moves", tally, walk(t, text))
	case <-time.After(daemon.Bound):
		t.Fatal("wait/event does not end with the box")
	}
}

func together(t *testing.T, s subject) {
	var boxes sync.WaitGroup
	for i := range 10 {
		boxes.Go(func() {
			name := fmt.Sprintf("b%d", i)
			code := fmt.Sprint(i)
			for range 5 {
				if k := s.create(name); k != fine {
					t.Errorf("create: %s", k)
				}
				if k := s.configure(name, script("echo "+name+"; exit "+code)); k != fine {
					t.Errorf("configure: %s", k)
				}
				k, done := s.begin(name, "start")
				if k == fine {
					k = <-done
				}
				if k != fine {
					t.Errorf("start: %s", k)
				}
				w, k := s.watch(name, "stopped")
				if k != fine {
					t.Errorf("watch: %s", k)
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), daemon.Bound)
				text, k := w.result(ctx)
				cancel()
				if k != fine || text != code {
					t.Errorf("wait/stopped of %s: %q, %s", name, text, k)
				}
				if text, k := s.read(name, "log"); k != fine || text != name {
					t.Errorf("log of %s: %q, %s", name, text, k)
				}
				if k := s.remove(name); k != fine {
					t.Errorf("remove: %s", k)
				}
			}
		})
	}
	boxes.Wait()
	if left := s.names(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func nameRace(t *testing.T, s subject) {
	var clients sync.WaitGroup
	var mu sync.Mutex
	odd := map[string]int{}
	note := func(what string, got kind, allowed ...kind) {
		if !slices.Contains(allowed, got) {
			mu.Lock()
			odd[what+": "+string(got)]++
			mu.Unlock()
		}
	}
	end := time.Now().Add(time.Second)
	for range 8 {
		clients.Go(func() {
			for time.Now().Before(end) {
				note("create", s.create("x"), fine, exists)
				note("configure", s.configure("x", sleeper), fine, absent, gone, busy) // it is being removed
				text, k := s.read("x", "status")
				note("status", k, fine, absent, gone)
				if k == fine && text != "empty" && text != "configured" {
					note("status", kind(text))
				}
				note("remove", s.remove("x"), fine, absent, gone)
			}
		})
	}
	clients.Wait()
	for what, n := range odd {
		t.Errorf("%s (%d times)", what, n)
	}
	if k := s.remove("x"); k != fine && k != absent {
		t.Errorf("remove: %s", k)
	}
	if left := s.names(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.shut()
	s.open()
	if left := s.names(); len(left) > 0 {
		t.Errorf("back after a restart: %v", left)
	}
}
