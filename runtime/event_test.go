package runtime

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime/status"
)

func fieldsByLine(s string) (out [][]string) {
	for line := range strings.Lines(strings.TrimSpace(s)) {
		out = append(out, strings.Fields(line))
	}
	return out
}

func TestEventLineIsMadeForRead(t *testing.T) {
	e := Event{Seq: 17, Time: time.Date(2026, 11, 22, 20, 1, 2, 123456789, time.UTC), Box: "web", Name: "status", Detail: "from=running to=stopped exit_code=137"}
	const want = "17 2026-11-22T20:01:02.123456789Z web status from=running to=stopped exit_code=137\n"
	if got := string(e.AppendText(nil)); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	e.Time = time.Date(2026, 11, 22, 20, 1, 2, 0, time.FixedZone("", 3600))
	if got := string(e.AppendText(nil)); !strings.Contains(got, " 2026-11-22T19:01:02.000000000Z ") {
		t.Fatalf("a time of another zone, without a fraction: %q", got)
	}
}

func TestRingKeepsTheNewest(t *testing.T) {
	v := events{max: 4}
	for i := 1; i <= 10; i++ {
		v.add(Event{Seq: uint64(i)}, false)
		all := v.all()
		if len(all) != min(i, 4) || all[len(all)-1].Seq != uint64(i) || all[0].Seq != uint64(max(1, i-3)) {
			t.Fatalf("after %d: %v", i, all)
		}
	}
}

func TestCursorSeesAllFromItsMomentOn(t *testing.T) {
	v := events{max: 4}
	v.add(Event{Seq: 1}, false)
	c := v.cursor()
	got, lost, more := c.Next(9)
	if len(got) != 0 || lost != 0 || more == nil {
		t.Fatalf("before anything: %v %d %v", got, lost, more)
	}
	v.add(Event{Seq: 2}, false)
	select {
	case <-more:
	default:
		t.Fatal("not woken")
	}
	for i := 3; i <= 5; i++ {
		v.add(Event{Seq: uint64(i)}, false)
	}
	got, lost, _ = c.Next(9)
	if len(got) != 4 || got[0].Seq != 2 || got[3].Seq != 5 || lost != 0 {
		t.Fatalf("got %v, lost %d", got, lost)
	}
	for i := 6; i <= 12; i++ {
		v.add(Event{Seq: uint64(i)}, false)
	}
	got, lost, _ = c.Next(9)
	if lost != 3 || len(got) != 4 || got[0].Seq != 9 {
		t.Fatalf("a reader that fell behind got %v, lost %d", got, lost)
	}
}

func TestSlowReaderIsToldWhatItLost(t *testing.T) {
	rt := testRuntime(t)
	s := rt.WaitEvent()
	defer s.Close()
	for range eventHistory + 5 {
		rt.emit(nil, "daemon", "")
	}
	buf := make([]byte, 4096)
	n, _, err := s.Poll(buf)
	must(t, err)
	if first, _, _ := strings.Cut(string(buf[:n]), "\n"); first != "- - - lost count=5" {
		t.Fatalf("first line %q", first)
	}
}

func TestLastEventIsGivenAndThenTheEnd(t *testing.T) {
	v := events{max: 4}
	s := &eventStream{cursor: v.cursor()}
	v.add(Event{Seq: 1, Name: "removed"}, true)
	buf := make([]byte, 256)
	if n, _, err := s.Poll(buf); err != nil || !strings.Contains(string(buf[:n]), "removed") {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	if n, more, err := s.Poll(buf); n != 0 || more != nil || !errors.Is(err, io.EOF) {
		t.Fatalf("then %d, %v, %v", n, more, err)
	}
}

func TestNothingComesAfterTheLastEvent(t *testing.T) {
	v := events{max: 4}
	s := &eventStream{cursor: v.cursor()}
	v.add(Event{Seq: 1, Name: "removed"}, true)
	v.add(Event{Seq: 2, Name: "exec"}, false) // one that was late
	buf := make([]byte, 256)
	n, _, err := s.Poll(buf)
	must(t, err)
	if got := string(buf[:n]); strings.Count(got, "\n") != 1 || !strings.Contains(got, "removed") {
		t.Fatalf("got %q", got)
	}
	if _, more, err := s.Poll(buf); !errors.Is(err, io.EOF) || more != nil {
		t.Fatalf("the stream is open again: %v, %v", more, err)
	}
}

// What is still under way when a box is removed tells nothing of it any more.
func TestARemovedBoxTellsNothing(t *testing.T) {
	rt := testRuntime(t)
	b, err := rt.Create("b")
	must(t, err)
	e, err := b.CreateExec("e", status.Owner{Mode: 0o700})
	must(t, err)
	s := b.WaitEvent()
	must(t, b.Remove())
	rt.work.Wait()
	e.tell("exit_code=0")
	if err := b.update("test", func(*tx) error { return nil }); !errors.Is(err, ErrRemoved) {
		t.Errorf("an update of it: %v", err)
	}
	buf := make([]byte, 4096)
	n, _, err := s.Poll(buf)
	must(t, err)
	lines := fieldsByLine(string(buf[:n]))
	if last := lines[len(lines)-1]; last[3] != "removed" {
		t.Errorf("the last event is %v", last)
	}
	if _, more, err := s.Poll(buf); !errors.Is(err, io.EOF) || more != nil {
		t.Errorf("a reader waits for more: %v, %v", more, err)
	}
	all := rt.Events()
	if last := all[len(all)-1]; last.Name != "removed" {
		t.Errorf("the daemon's last event is %s", last.Name)
	}
}

func TestSlowReaderCostsNoMoreThanALine(t *testing.T) {
	rt := testRuntime(t)
	s, ok := rt.WaitEvent().(*eventStream)
	if !ok {
		t.Fatal("another stream")
	}
	defer s.Close()
	for range eventHistory {
		rt.emit(nil, "daemon", "")
	}
	if n, _, err := s.Poll(make([]byte, 1)); n != 1 || err != nil || len(s.rest) > 2*eventLine {
		t.Fatalf("a read of one byte gave %d, %v, and keeps %d", n, err, len(s.rest))
	}
	buf := make([]byte, 128<<10)
	if n, _, err := s.Poll(buf[:4096]); err != nil || n > 2*eventLine {
		t.Fatalf("the rest of the line: %d, %v", n, err)
	}
	n, _, err := s.Poll(buf)
	must(t, err)
	if got := strings.Count(string(buf[:n]), "\n"); got != eventHistory-1 {
		t.Fatalf("a read with room for all gave %d lines", got)
	}
}
