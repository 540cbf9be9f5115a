package event

import (
	"strings"
	"testing"
	"time"
)

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
	r := Ring{Max: 4}
	for i := 1; i <= 10; i++ {
		r.Add(Event{Seq: uint64(i)}, false)
		all := r.All()
		if len(all) != min(i, 4) || all[len(all)-1].Seq != uint64(i) || all[0].Seq != uint64(max(1, i-3)) {
			t.Fatalf("after %d: %v", i, all)
		}
	}
}

func TestCursorSeesAllFromItsMomentOn(t *testing.T) {
	r := Ring{Max: 4}
	r.Add(Event{Seq: 1}, false)
	c := r.Follow()
	got, lost, more := c.Next(9)
	if len(got) != 0 || lost != 0 || more == nil {
		t.Fatalf("before anything: %v %d %v", got, lost, more)
	}
	r.Add(Event{Seq: 2}, false)
	select {
	case <-more:
	default:
		t.Fatal("not woken")
	}
	for i := 3; i <= 5; i++ {
		r.Add(Event{Seq: uint64(i)}, false)
	}
	got, lost, _ = c.Next(9)
	if len(got) != 4 || got[0].Seq != 2 || got[3].Seq != 5 || lost != 0 {
		t.Fatalf("got %v, lost %d", got, lost)
	}
	for i := 6; i <= 12; i++ {
		r.Add(Event{Seq: uint64(i)}, false)
	}
	got, lost, _ = c.Next(9)
	if lost != 3 || len(got) != 4 || got[0].Seq != 9 {
		t.Fatalf("a reader that fell behind got %v, lost %d", got, lost)
	}
}
