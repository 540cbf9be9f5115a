package runtime

import (
	"errors"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime/status"
)

// What the table of moves does not allow, update refuses, and changes nothing.
func TestUpdateRefusesAMoveThatIsNotInTheTable(t *testing.T) {
	rt := testRuntime(t)
	for _, from := range status.All() {
		for _, to := range status.All() {
			b := newBox(rt, "b")
			b.publish(&Snapshot{Status: from, PID: -1, ExitCode: -1, LastError: "ok"}, time.Now())
			before := b.Snapshot()
			err := b.update("test", func(tx *tx) error {
				tx.Status = to
				tx.LastError = "changed"
				return nil
			})
			if from == to || status.CanMove(from, to) {
				if err != nil || b.Snapshot().Status != to {
					t.Errorf("%s → %s: %v, status %s", from, to, err, b.Snapshot().Status)
				}
				continue
			}
			var te *TransitionError
			if !errors.As(err, &te) || te.From != from || te.To != to || !errors.Is(err, ErrBusy) {
				t.Errorf("%s → %s: got %v, want a TransitionError", from, to, err)
			}
			if b.Snapshot() != before || len(b.Events()) != 0 {
				t.Errorf("%s → %s was refused and changed something", from, to)
			}
		}
	}
}

func TestUpdateWakesAndTellsOnlyOnAChange(t *testing.T) {
	seen := &observerLog{}
	rt := testRuntime(t)
	rt.opt.Observer = seen
	b := newBox(rt, "b")
	b.publish(&Snapshot{Status: status.Configured, PID: -1, LastError: "ok"}, time.Now())
	next := b.Snapshot().Next()
	must(t, b.update("test", func(*tx) error { return nil }))
	select {
	case <-next:
		t.Fatal("woken by a change of nothing")
	default:
	}
	if len(seen.fields) != 0 {
		t.Fatalf("observer told of a change of nothing: %v", seen.fields)
	}
	must(t, b.update("test", func(tx *tx) error { tx.LastError = "x"; return nil }))
	select {
	case <-next:
	default:
		t.Fatal("not woken by a change")
	}
	if len(seen.fields) != 1 || seen.fields[0]&FieldLastError == 0 || seen.fields[0]&FieldStatus != 0 {
		t.Fatalf("observer was told %v", seen.fields)
	}
}

type observerLog struct{ fields []Field }

func (o *observerLog) BoxChanged(_ *Box, f Field) { o.fields = append(o.fields, f) }
func (o *observerLog) BoxRemoved(*Box, bool)      {}
func (o *observerLog) Changed()                   {}
func (o *observerLog) ExecChanged(*Exec)          {}
func (o *observerLog) ImagesChanged()             {}
func (o *observerLog) ImagesErrorChanged()        {}
func (o *observerLog) RootClosed(*Box)            {}
