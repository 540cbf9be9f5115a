package fsapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime"
)

// fakeTarget carries out what it is told to when the test says so.
type fakeTarget struct {
	mu    sync.Mutex
	kills uint64
	done  []string // what has begun, in order
	work  map[string]func(error)
	begun chan string
	// refused are the failures that its last_error has shown.
	refused []error
}

func newFakeTarget() *fakeTarget {
	return &fakeTarget{work: map[string]func(error){}, begun: make(chan string, 1<<16)}
}

func (f *fakeTarget) verbs() string                           { return "" }
func (f *fakeTarget) parse([]string) (runtime.Command, error) { return runtime.Command{}, nil }

// RefuseCommand is asked by one order at a time.
func (f *fakeTarget) RefuseCommand(err error) error {
	f.refused = append(f.refused, err)
	return err
}

func (f *fakeTarget) Kills() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kills
}

// Do begins a command, whose verb has a name behind it: "start 1".
func (f *fakeTarget) Do(_ runtime.By, c runtime.Command) (*runtime.Completion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := string(c.Verb)
	if c.Verb == runtime.VerbKill {
		f.kills++
		name = fmt.Sprintf("kill %d", f.kills)
	} else if c.Grace != nil {
		name += fmt.Sprintf(" %d", *c.Grace)
	}
	work, end := runtime.NewCompletion()
	f.done = append(f.done, name)
	f.work[name] = end
	f.begun <- name
	return work, nil
}

// end ends a command that has begun.
func (f *fakeTarget) end(name string, err error) {
	f.mu.Lock()
	end := f.work[name]
	delete(f.work, name)
	f.mu.Unlock()
	end(err)
}

// command makes a command of "start 1".
func command(text string) runtime.Command {
	var c runtime.Command
	verb, n, found := strings.Cut(text, " ")
	c.Verb = runtime.Verb(verb)
	if found {
		var d time.Duration
		_, _ = fmt.Sscan(n, (*int64)(&d)) // the tests' own
		c.Grace = &d
	}
	return c
}

func write(t *testing.T, q *orders, pid int, texts ...string) {
	t.Helper()
	var all []runtime.Command
	for _, text := range texts {
		all = append(all, command(text))
	}
	must(t, q.add(runtime.By{PID: pid}, proc{pid: pid}, all))
}

// verdict waits as the close of a process does.
func verdict(t *testing.T, q *orders, pid int) error {
	t.Helper()
	w := q.wrote(proc{pid: pid})
	if w == nil {
		return nil
	}
	select {
	case <-w.idle:
	case <-time.After(10 * time.Second):
		t.Fatalf("process %d is not answered", pid)
	}
	return q.report(w)
}

// next waits until something begins.
func (f *fakeTarget) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-f.begun:
		if got != want {
			t.Fatalf("%s begins, not %s", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s does not begin", want)
	}
}

func TestWhatAKillOvertakes(t *testing.T) {
	bad := errors.New("bad")
	t.Run("what is written after it is carried out, however that before has ended", func(t *testing.T) {
		f := newFakeTarget()
		q := &orders{to: f}
		write(t, q, 1, "start 1")
		write(t, q, 1, "signal 1")
		write(t, q, 2, "signal 2")
		write(t, q, 1, "kill")
		write(t, q, 1, "start 2")
		f.next(t, "start 1")
		f.next(t, "kill 1")
		f.end("start 1", bad)
		f.end("kill 1", nil)
		f.next(t, "start 2")
		if err := verdict(t, q, 2); !errors.Is(err, runtime.ErrCanceled) {
			t.Errorf("another process whose command was canceled is told %v", err)
		}
		f.end("start 2", nil)
		if err := verdict(t, q, 1); err != nil {
			t.Errorf("who gave the kill himself is told %v", err)
		}
	})
	t.Run("through another open, in both directions", func(t *testing.T) {
		f := newFakeTarget()
		a, b := &orders{to: f}, &orders{to: f}
		write(t, a, 1, "stop 1", "start 1")
		write(t, b, 2, "kill")
		write(t, a, 3, "start 2")
		f.next(t, "stop 1")
		f.next(t, "kill 1")
		f.end("kill 1", nil)
		f.end("stop 1", nil)
		f.next(t, "start 2")
		f.end("start 2", nil)
		for pid, want := range map[int]error{1: runtime.ErrCanceled, 2: nil, 3: nil} {
			q := a
			if pid == 2 {
				q = b
			}
			if err := verdict(t, q, pid); !errors.Is(err, want) {
				t.Errorf("process %d is told %v, not %v", pid, err, want)
			}
		}
	})
	t.Run("in one write the lines have their order", func(t *testing.T) {
		f := newFakeTarget()
		q := &orders{to: f}
		write(t, q, 1, "start 1", "pause", "kill", "start 2")
		for _, name := range []string{"start 1", "pause", "kill 1", "start 2"} {
			f.next(t, name)
			f.end(name, nil)
		}
		must(t, verdict(t, q, 1))
	})
	t.Run("a kill behind a stop waits for no grace", func(t *testing.T) {
		f := newFakeTarget()
		q := &orders{to: f}
		write(t, q, 1, "signal 1", "stop 1", "kill", "start 1")
		f.next(t, "signal 1")
		f.end("signal 1", nil)
		f.next(t, "stop 1")
		f.next(t, "kill 1")
		f.end("stop 1", bad)
		f.end("kill 1", nil)
		f.next(t, "start 1")
		f.end("start 1", nil)
		must(t, verdict(t, q, 1))
	})
	t.Run("what stands behind one that failed is not begun, a kill included", func(t *testing.T) {
		f := newFakeTarget()
		q := &orders{to: f}
		write(t, q, 1, "start 1", "kill", "start 2")
		f.next(t, "start 1")
		f.end("start 1", bad)
		if err := verdict(t, q, 1); !errors.Is(err, bad) {
			t.Errorf("told %v", err)
		}
		write(t, q, 1, "start 3")
		f.next(t, "start 3")
		f.end("start 3", nil)
		must(t, verdict(t, q, 1))
	})
	t.Run("a kill that fails keeps what was written in belief of it", func(t *testing.T) {
		f := newFakeTarget()
		q := &orders{to: f}
		write(t, q, 1, "stop 1")
		write(t, q, 1, "kill", "start 1")
		f.next(t, "stop 1")
		f.next(t, "kill 1")
		f.end("stop 1", bad)
		f.end("kill 1", runtime.ErrTimedOut)
		if err := verdict(t, q, 1); !errors.Is(err, runtime.ErrTimedOut) {
			t.Errorf("told %v", err)
		}
		if len(f.begun) > 0 {
			t.Errorf("%s begins", <-f.begun)
		}
	})
}

// The kill comes when the order's turn has come, and it has not begun.
func TestAKillBetweenTwoOrders(t *testing.T) {
	for name, c := range map[string]struct {
		killer, refusals int
		verdict          error
	}{
		"his own is no failure, also of the box": {killer: 1},
		"another's is":                           {killer: 2, refusals: 1, verdict: runtime.ErrCanceled},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeTarget()
			q := &orders{to: f}
			q.enter(proc{pid: 1}, 1)
			o := &order{by: runtime.By{PID: 1}, from: proc{pid: 1}, command: command("start 1")}
			q.now = o
			write(t, q, c.killer, "kill")
			f.next(t, "kill 1")
			f.end("kill 1", nil)
			q.carryOut(o)
			if err := verdict(t, q, 1); !errors.Is(err, c.verdict) {
				t.Errorf("told %v, not %v", err, c.verdict)
			}
			must(t, verdict(t, q, 2))
			if len(f.refused) != c.refusals || len(f.begun) != 0 {
				t.Errorf("the box shows %v, and %d have begun", f.refused, len(f.begun))
			}
		})
	}
}

// Whatever is written by whom through which open: everybody is answered, nothing is left,
// and what is written behind a kill is carried out.
func TestOrdersOfACrowd(t *testing.T) {
	f := newFakeTarget()
	stop := make(chan struct{})
	var carrier sync.WaitGroup
	carrier.Go(func() {
		for {
			select {
			case name := <-f.begun:
				var err error
				if rand.IntN(8) == 0 && strings.HasPrefix(name, "signal") {
					err = errors.New(name)
				}
				f.end(name, err)
			case <-stop:
				return
			}
		}
	})
	opens := []*orders{{to: f}, {to: f}}
	var n int
	var numbers sync.Mutex
	next := func() int {
		numbers.Lock()
		defer numbers.Unlock()
		n++
		return n
	}
	var crowd sync.WaitGroup
	for pid := 1; pid <= 4; pid++ {
		crowd.Go(func() {
			for range 100 {
				q := opens[rand.IntN(len(opens))]
				verb := []string{"start", "stop", "signal", "kill"}[rand.IntN(4)]
				if verb != "kill" {
					verb = fmt.Sprintf("%s %d", verb, next())
				}
				if err := q.add(runtime.By{PID: pid}, proc{pid: pid}, []runtime.Command{command(verb)}); err != nil && !errors.Is(err, errTooMany) {
					t.Error(err)
				}
				if rand.IntN(3) == 0 {
					_ = verdict(t, q, pid) // what it is does not matter
				}
			}
			for _, q := range opens {
				_ = verdict(t, q, pid)
			}
		})
	}
	crowd.Wait()
	for _, q := range opens {
		write(t, q, 9, "kill")
		write(t, q, 9, fmt.Sprintf("start %d", next()))
		must(t, verdict(t, q, 9))
	}
	close(stop)
	carrier.Wait()
	if !slices.Contains(f.done, fmt.Sprintf("start %d", n)) {
		t.Error("the last start was lost")
	}
	for _, q := range opens {
		if q.now != nil || len(q.queue) > 0 {
			t.Errorf("left: %v, %v", q.now, q.queue)
		}
	}
}

// A process may write again before it closes.
func TestAFailureIsToldOnceByTheNextClose(t *testing.T) {
	f := newFakeTarget()
	q := &orders{to: f}
	bad := errors.New("bad")
	write(t, q, 1, "start 1")
	f.next(t, "start 1")
	idle := q.wrote(proc{pid: 1}).idle
	f.end("start 1", bad)
	<-idle
	write(t, q, 2, "start 2")
	f.next(t, "start 2")
	f.end("start 2", nil)
	must(t, verdict(t, q, 2))
	for _, want := range []error{bad, nil} {
		write(t, q, 1, "start 3")
		f.next(t, "start 3")
		f.end("start 3", nil)
		if err := verdict(t, q, 1); !errors.Is(err, want) {
			t.Errorf("told %v, not %v", err, want)
		}
	}
}

// An open may be shared by any number of processes, one after the other.
func TestFailuresThatWereToldAreForgotten(t *testing.T) {
	f := newFakeTarget()
	q := &orders{to: f}
	for pid := 1; pid < 10*maxFailed; pid++ {
		write(t, q, pid, "start 1")
		f.next(t, "start 1")
		f.end("start 1", context.Canceled)
		if err := verdict(t, q, pid); !errors.Is(err, context.Canceled) {
			t.Fatalf("told %v", err)
		}
	}
	if len(q.writers) > maxFailed+1 {
		t.Errorf("%d are remembered", len(q.writers))
	}
}
