package runtime

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/event"
	"github.com/boxlitefs/boxlite/runtime/status"
)

func fieldsByLine(s string) (out [][]string) {
	for line := range strings.Lines(strings.TrimSpace(s)) {
		out = append(out, strings.Fields(line))
	}
	return out
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
	v := event.Ring{Max: 4}
	s := &eventStream{cursor: v.Follow()}
	v.Add(event.Event{Seq: 1, Name: "removed"}, true)
	buf := make([]byte, 256)
	if n, _, err := s.Poll(buf); err != nil || !strings.Contains(string(buf[:n]), "removed") {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	if n, more, err := s.Poll(buf); n != 0 || more != nil || !errors.Is(err, io.EOF) {
		t.Fatalf("then %d, %v, %v", n, more, err)
	}
}

func TestNothingComesAfterTheLastEvent(t *testing.T) {
	v := event.Ring{Max: 4}
	s := &eventStream{cursor: v.Follow()}
	v.Add(event.Event{Seq: 1, Name: "removed"}, true)
	v.Add(event.Event{Seq: 2, Name: "exec"}, false) // one that was late
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
