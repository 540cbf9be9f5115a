package runtime

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/runtime/status"
)

func TestTimersKeepToTheMonotonicClock(t *testing.T) {
	// A time without a reading of it prints no "m=", and moves when the clock is set.
	steady := func(at time.Time) bool { return at != at.Round(0) }
	if at := together(time.Now().Add(time.Second), time.Second); !steady(at) {
		t.Errorf("a probe is due at %s", at)
	}
}

// The tick that close makes can be taken together with one before it.
func TestProberEndsWithoutAWakeUp(t *testing.T) {
	rt := &Runtime{}
	var err error
	rt.timers, err = epoll.NewTimers()
	must(t, err)
	heard := rt.timers.FD()
	rt.prober, err = newProber(rt, 1)
	must(t, err)
	rt.timers, err = epoll.NewTimers() // the loop does not listen to this one
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- rt.prober.close() }()
	select {
	case err := <-ended:
		must(t, errors.Join(err, unix.Close(heard)))
	case <-time.After(10 * time.Second):
		t.Fatal("the prober does not end")
	}
}

// What is timed of a thousand boxes has one loop. It must not stand still because the disk
// takes its time for one of them.
func TestTheLoopOfTimersDoesNotWaitForTheDisk(t *testing.T) {
	for name, ask := range map[string]func(b *Box, r *run){
		"a directory that is opened": func(b *Box, _ *run) {
			if dir, err := b.pin(); err == nil {
				_ = dir.Close()
			}
		},
		"an exec that is made": func(b *Box, _ *run) { _, _ = b.CreateExec("e", status.Owner{}) },
		"a box that is removed": func(b *Box, r *run) {
			b.mu.Lock()
			s := *b.Snapshot()
			s.Status = status.Stopped
			b.publish(&s, time.Now())
			b.mu.Unlock()
			_ = b.Remove()
		},
		"a line to a shim": func(b *Box, r *run) { b.rt.prober.watch(b, r, false) },
	} {
		t.Run(name, func(t *testing.T) {
			b, r := running(t, &config.Config{Expire: config.Expire{Idle: time.Hour}, Health: config.HealthCheck{Interval: time.Hour, Retries: 1, Timeout: time.Second}})
			// The disk answers when the test is over.
			asked, answer := make(chan struct{}, 16), make(chan struct{})
			b.rt.store.slow = func() {
				asked <- struct{}{}
				<-answer
			}
			var at sync.WaitGroup
			at.Go(func() { ask(b, r) })
			defer at.Wait()
			defer close(answer)
			select {
			case <-asked:
			case <-time.After(10 * time.Second):
				t.Fatal("the disk is not asked")
			}
			// What is due of this very box (its life, its backoff, its probe), and of others.
			fired := make(chan string, 16)
			for what, fire := range map[string]func(){
				"its life": func() { b.lookAtLife(r) }, "its backoff": b.restartDue, "its signs of life": b.activeTimer.Fire,
				"its health": func() { b.healthIs(r, status.Unhealthy, &ProbeReport{At: time.Now()}) },
			} {
				b.rt.timers.Set(&epoll.Timer{Fire: func() { fire(); fired <- what }}, time.Now())
			}
			b.rt.timers.Set(&epoll.Timer{Fire: func() { fired <- "others" }}, time.Now().Add(time.Millisecond))
			for range 5 {
				select {
				case <-fired:
				case <-time.After(5 * time.Second):
					t.Fatal("the loop stands still")
				}
			}
		})
	}
}

// Many execs of a box that are made at once have the names that they ask for once.
func TestExecsAreMadeOnce(t *testing.T) {
	rt := testRuntime(t)
	b, err := rt.Create("b")
	must(t, err)
	var mu sync.Mutex
	made := 0
	var all sync.WaitGroup
	for i := range 4 * MaxExecs {
		all.Go(func() {
			_, err := b.CreateExec("e"+strconv.Itoa(i%(2*MaxExecs)), status.Owner{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !errors.Is(err, ErrExist) && !errors.Is(err, ErrExecs) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	rt.work.Wait()
	if known, _ := b.Execs(); made != MaxExecs || len(known) != MaxExecs {
		t.Errorf("%d were made, %d are known", made, len(known))
	}
}
