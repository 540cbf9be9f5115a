package functional

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

var waitCases = []testCase{
	{"wait/exit is bound to the run", waitExit},
	{"wait/running", waitRunning},
	{"wait/stopped", waitStopped},
	{"a wait can be given up", waitCancelled},
	{"blocked readers of a removed box wake", waitRemoved},
	{"wait/event gives events from now on", waitEvent},
	{"wait/log gives the log from now on until the run ends", waitLog},
	{"wait/log gives its run alone to who reads it late", waitLogLate},
	{"wait/log tells who fell behind how much is lost", waitLogLost},
}

// async reads a waiter to its answer in the background.
func async(w waiter) <-chan [2]string {
	out := make(chan [2]string, 1)
	go func() {
		text, k := w.result(context.Background())
		out <- [2]string{text, string(k)}
	}()
	return out
}

func waitExit(t *testing.T, s subject) {
	upReady(t, s, "x", script("trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"))
	first, stopped := watch(t, s, "x", "exit"), watch(t, s, "x", "stopped")
	late := async(stopped)
	do(t, s, "x", "restart")
	if text, k := result(t, "wait/exit", first); k != fine || text != "3" {
		t.Errorf("wait/exit across a restart: %q, %s", text, k)
	}
	is(t, s, "x", "status", "running")
	second := watch(t, s, "x", "exit")
	do(t, s, "x", "kill")
	if text, k := result(t, "wait/exit", second); k != fine || text != "137" {
		t.Errorf("wait/exit of the second run: %q, %s", text, k)
	}
	<-late // its answer, 3 or 137, hangs on whether it looked between the runs
	if got := waits(t, s, "x", "exit"); got != "137" {
		t.Errorf("wait/exit without a run: %q", got)
	}
}

func waitRunning(t *testing.T, s subject) {
	must(t, "create", s.create("x"))
	answer := async(watch(t, s, "x", "running"))
	must(t, "configure", s.configure("x", sleeper))
	select {
	case a := <-answer:
		t.Fatalf("wait/running answers before the start: %q", a)
	default:
	}
	do(t, s, "x", "start")
	if a := <-answer; a != [2]string{"running", "fine"} {
		t.Errorf("wait/running: %q", a)
	}
	if got := waits(t, s, "x", "running"); got != "running" {
		t.Errorf("wait/running of a running box: %q", got)
	}
	do(t, s, "x", "kill")
	_, k := result(t, "wait/running", watch(t, s, "x", "running"))
	want(t, "wait/running of a stopped box", k, canceled)

	must(t, "configure", s.configure("x", "command: [no-such-command]\n"))
	want(t, "start", try(t, s, "x", "start"), startFailed)
	_, k = result(t, "wait/running", watch(t, s, "x", "running"))
	want(t, "wait/running of a failed box", k, canceled)

	must(t, "configure", s.configure("x", "command: [no-such-command]\nhostname: y\n"))
	answer = async(watch(t, s, "x", "running"))
	want(t, "start", try(t, s, "x", "start"), startFailed)
	if a := <-answer; a[1] != string(canceled) {
		t.Errorf("wait/running over a failing start: %q", a)
	}
}

func waitStopped(t *testing.T, s subject) {
	must(t, "create", s.create("x"))
	for _, file := range []string{"stopped", "exit"} {
		if got := waits(t, s, "x", file); got != "-1" {
			t.Errorf("wait/%s of a box that never ran: %q", file, got)
		}
	}
	must(t, "configure", s.configure("x", script("sleep 0.1; exit 6")))
	do(t, s, "x", "start")
	for _, file := range []string{"exit", "stopped"} {
		if got := waits(t, s, "x", file); got != "6" {
			t.Errorf("wait/%s: %q", file, got)
		}
	}
}

func waitCancelled(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	for _, file := range []string{"exit", "stopped", "log", "event"} {
		ctx, cancel := context.WithCancel(context.Background())
		w := watch(t, s, "x", file)
		answer := make(chan kind, 1)
		go func() {
			_, k := w.result(ctx)
			answer <- k
		}()
		cancel()
		want(t, "a wait/"+file+" that was given up", ending(t, "wait/"+file, answer), interrupted)
	}
	is(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
}

func waitRemoved(t *testing.T, s subject) {
	must(t, "create", s.create("x"))
	running, event := async(watch(t, s, "x", "running")), async(watch(t, s, "x", "event"))
	must(t, "remove", s.remove("x"))
	if a := <-running; a[1] != string(canceled) {
		t.Errorf("wait/running of a removed box: %q", a)
	}
	if a := <-event; a[1] != string(fine) || !strings.HasSuffix(a[0], " x removed") {
		t.Errorf("wait/event of a removed box: %q", a)
	}
}

func waitEvent(t *testing.T, s subject) {
	box(t, s, "x", sleeper+"remove_on_exit: true\n")
	w := watch(t, s, "x", "event")
	do(t, s, "x", "start")
	do(t, s, "x", "kill")
	text, k := result(t, "wait/event", w)
	must(t, "wait/event", k)
	if strings.Contains(text, "created") || strings.Contains(text, " configured") {
		t.Errorf("wait/event gives what was before:\n%s", text)
	}
	at := 0
	for _, step := range []string{"command by=", "to=starting", "to=running", "to=stopping", "reaped", "to=stopped exit_code=137", "removed"} {
		next := strings.Index(text[at:], step)
		if next < 0 {
			t.Fatalf("wait/event does not give %q after the others:\n%s", step, text)
		}
		at += next
	}
}

func waitLog(t *testing.T, s subject) {
	upReady(t, s, "x", script("trap 'echo more; exit 0' USR1; echo ready; while :; do sleep 0.02; done"))
	w := watch(t, s, "x", "log")
	do(t, s, "x", "signal USR1")
	text, k := result(t, "wait/log", w)
	if k != fine || text != "more" {
		t.Errorf("wait/log: %q, %s", text, k)
	}
	text, k = result(t, "wait/log", watch(t, s, "x", "log"))
	if k != fine || text != "" {
		t.Errorf("wait/log of a box that does not run: %q, %s", text, k)
	}
}

// waitLogLate reads what was opened in one run when the next has written, too.
func waitLogLate(t *testing.T, s subject) {
	upReady(t, s, "x", script("trap 'echo more; exit 0' USR1; echo ready; while :; do sleep 0.02; done"))
	w := watch(t, s, "x", "log")
	do(t, s, "x", "signal USR1")
	waits(t, s, "x", "exit")
	must(t, "configure", s.configure("x", script("echo next")))
	do(t, s, "x", "start")
	waits(t, s, "x", "exit")
	if text, k := result(t, "wait/log", w); k != fine || text != "more" {
		t.Errorf("wait/log: %q, %s", text, k)
	}
}

func waitLogLost(t *testing.T, s subject) {
	const lines, width = 2000, len("line0001\n")
	var all strings.Builder
	for i := range lines {
		fmt.Fprintf(&all, "line%04d\n", i+1)
	}
	upReady(t, s, "x", script("trap 'exec seq -f line%04.0f 2000' USR1; echo ready; while :; do sleep 0.02; done", "log: {max_size: 4KiB}\n"))
	w, overrun := watch(t, s, "x", "log"), watch(t, s, "x", "log")
	do(t, s, "x", "signal USR1")
	waits(t, s, "x", "exit")
	text, k := result(t, "wait/log", w)
	must(t, "wait/log", k)
	var lost int
	notice, rest, _ := strings.Cut(text, "\n")
	if _, err := fmt.Sscanf(notice, "- - - lost count=%d", &lost); err != nil {
		t.Fatalf("wait/log begins with %q", notice)
	}
	if lost < lines*width-2*4096 || lost > lines*width-4096 || rest+"\n" != all.String()[lost:] {
		t.Errorf("wait/log says that %d bytes are lost, and goes on with %q", lost, rest[:min(len(rest), 40)])
	}

	// A run of which nothing is kept has still its end.
	must(t, "configure", s.configure("x", script("seq 3000")+"log: {max_size: 4KiB}\n"))
	do(t, s, "x", "start")
	waits(t, s, "x", "exit")
	if text, k := result(t, "wait/log", overrun); k != fine || text != fmt.Sprintf("- - - lost count=%d", lines*width) {
		t.Errorf("wait/log of a run that is not kept: %q, %s", text[:min(len(text), 60)], k)
	}
}
