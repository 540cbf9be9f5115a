package reaper

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A child that dies under a tracer: that it has ended is told in time, and how,
// though its status is the tracer's first; and when the tracer lets go no zombie stays.
func TestTracedChild(t *testing.T) {
	for _, how := range []string{"wait", "exit"} {
		t.Run(how, func(t *testing.T) {
			w := watcher(t)
			p := child(t, "sleep", "1000")
			let := tracer(t, p.PID())
			ended := watch(t, w, p)
			began := time.Now()
			must(t, p.Kill())
			e := p.Reap(context.Background(), time.Now().Add(10*time.Second))
			took := time.Since(began)
			if e.Outcome != NotOurChild || e.Code != 137 || e.Signal != unix.SIGKILL {
				t.Fatalf("%+v", e)
			}
			if took < witnessBound/2 || took > witnessBound+2*time.Second {
				t.Errorf("it was told after %s", took)
			}
			if get(t, ended) != e {
				t.Error("the callback was told otherwise")
			}
			if got := State(p.PID()); got != "Z" {
				t.Fatalf("a traced zombie is %s", got)
			}
			let(how)
			await(t, "the zombie to go", func() bool { return gone(p.PID()) })
			await(t, "its pidfd to be closed", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.fd < 0
			})
			select {
			case e := <-ended:
				t.Errorf("told twice: %+v", e)
			default:
			}
		})
	}
}

// A tracer that lets go at once, as a debugger does, takes nothing away.
func TestTracerThatLetsGo(t *testing.T) {
	w := watcher(t)
	p := child(t, "sleep", "1000")
	let := tracer(t, p.PID())
	ended := watch(t, w, p)
	go let("wait") // it waits from now on
	time.Sleep(50 * time.Millisecond)
	must(t, p.Kill())
	if e := get(t, ended); e.Outcome != Reaped || e.Code != 137 {
		t.Fatalf("%+v", e)
	}
	if !gone(p.PID()) {
		t.Errorf("it is %s", State(p.PID()))
	}
}

// A watcher that is closed meanwhile.
func TestTracedWhenTheWatcherCloses(t *testing.T) {
	w, err := NewWatcher()
	must(t, err)
	p := child(t, "sleep", "1000")
	let := tracer(t, p.PID())
	ended := watch(t, w, p)
	must(t, p.Kill())
	if e := get(t, ended); e.Outcome != NotOurChild {
		t.Fatalf("%+v", e)
	}
	must(t, w.Close())
	let("exit")
	_, swept := spread(t, watcher(t), firstLook) // it is nobody's now
	await(t, "the zombie to be swept", func() bool { return swept()[p.PID()].Code == 137 })
}
