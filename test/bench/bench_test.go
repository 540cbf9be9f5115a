package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedianIsAMeasuredValue(t *testing.T) {
	for _, c := range []struct {
		series []int
		want   int
	}{
		{[]int{7}, 7},
		{[]int{3, 1}, 1},
		{[]int{9, 1, 5}, 5},
		{[]int{1000000, 2, 1, 3}, 2},
	} {
		before := append([]int(nil), c.series...)
		if got := median(c.series); got != c.want {
			t.Errorf("median(%v) = %d, want %d", c.series, got, c.want)
		}
		for i := range before {
			if before[i] != c.series[i] {
				t.Fatalf("median reordered %v to %v: the rounds no longer match", before, c.series)
			}
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	ours := []time.Duration{10, 40, 30}
	peer := []time.Duration{20, 20, 10}
	got := ratios(ours, peer)
	for i, want := range []float64{0.5, 2, 3} {
		if got[i] != want {
			t.Errorf("round %d: %v, want %v", i, got[i], want)
		}
	}
}

func TestInterleaveTakesTurnsAndDropsTheWarmUp(t *testing.T) {
	var turns strings.Builder
	turn := func(name string) side {
		n := time.Duration(0)
		return side{name, func() (time.Duration, error) {
			turns.WriteString(name)
			n++
			return n, nil
		}}
	}
	series, err := new(bench).interleave(context.Background(), 4, turn("a"), turn("b"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := turns.String(), strings.Repeat("ab", 3+4); got != want {
		t.Errorf("turns %s, want %s", got, want)
	}
	for _, s := range series {
		if len(s) != 4 || s[0] != 4 || s[3] != 7 {
			t.Errorf("series %v, want rounds 4 to 7", s)
		}
	}
}

func TestInterleaveEndsOnError(t *testing.T) {
	broken := errors.New("broken")
	_, err := new(bench).interleave(context.Background(), 4,
		side{"peer", func() (time.Duration, error) { return 0, broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "peer") {
		t.Errorf("error %v, want the peer's", err)
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		goal  goal
		value float64
		want  string
	}{
		{atMost(1), 1, "yes"},
		{below(1), 1, "**no**: 0 ms over (+0 %)"},
		{below(10), 9.99, "yes"},
		{atMost(2), 2.5, "**no**: 0.5 ms over (+25 %)"},
		{atMost(0), 3, "**no**: 3 ms over"},
	} {
		if got := verdict(c.goal.over(c.value, " ms")); got != c.want {
			t.Errorf("%+v of %v: %q, want %q", c.goal, c.value, got, c.want)
		}
	}
	if got := verdict(atMost(1).over(2, " ms"), below(1).over(0, ""), atMost(1).over(3, "")); strings.Count(got, ";") != 1 {
		t.Errorf("%q: want the two missed goals", got)
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.0412: "0.041", 0.5: "0.5", 0.994: "0.99", 0.999: "1.00", 1: "1", 86: "86", 1.234: "1.23",
		9.996: "10.0", 12.34: "12.3", 99.96: "100", 1234.5: "1,235", 1234567: "1,234,567",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
	for n, want := range map[int64]string{-123: "-123", -1234: "-1,234", 999: "999", 1000: "1,000"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestProtoReadsWhatItWrites(t *testing.T) {
	message := protoUint(protoString(protoString(nil, 1, "id"), 2, ""), 3, 300)
	if got, err := protoBytes(message, 1); err != nil || string(got) != "id" {
		t.Errorf("field 1: %q, %v", got, err)
	}
	if got, err := protoVarint(message, 3); err != nil || got != 300 {
		t.Errorf("field 3: %d, %v", got, err)
	}
	if got, err := protoVarint(message, 4); err != nil || got != 0 {
		t.Errorf("absent field: %d, %v", got, err)
	}
	for cut := 1; cut < len(message); cut++ {
		if _, err := protoVarint(message[:cut], 4); err != nil && !errors.Is(err, errProto) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	if _, err := protoBytes([]byte{1<<3 | wireBytes, 200, 1, 'x'}, 1); !errors.Is(err, errProto) {
		t.Errorf("a length beyond the end: %v, want errProto", err)
	}
	// Messages with a common beginning must not write over each other.
	id := protoString(nil, 1, "id")
	one, two := protoUint(id, 2, 1), protoUint(id, 2, 2)
	if n, err := protoVarint(one, 2); err != nil || n != 1 {
		t.Errorf("after %v was made, field 2 of the first message is %d, %v", two, n, err)
	}
}

func TestShimSocket(t *testing.T) {
	for out, want := range map[string]string{
		"unix:///run/containerd/s/abc\n":                                            "/run/containerd/s/abc",
		`{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`: "/run/containerd/s/abc",
	} {
		if got, err := shimSocket([]byte(out)); err != nil || got != want {
			t.Errorf("shimSocket(%q) = %q, %v", out, got, err)
		}
	}
	if got, err := shimSocket([]byte("vsock://1:2")); err == nil {
		t.Errorf("a foreign address was taken for %q", got)
	}
}

func TestProcessesAreRead(t *testing.T) {
	own := []int{os.Getpid()}
	for what, read := range map[string]func([]int) (int64, error){"pss": pss, "rss": rss} {
		if kib, err := read(own); err != nil || kib < 100 || kib > 1<<20 {
			t.Errorf("%s of this process: %d KiB, %v", what, kib, err)
		}
	}
	before, err := activityOf(own)
	if err != nil {
		t.Fatal(err)
	}
	// Sleeping is what makes wake-ups.
	const naps = 5
	for range naps {
		time.Sleep(time.Millisecond)
	}
	after, err := activityOf(own)
	if err != nil {
		t.Fatal(err)
	}
	if used := after.sub(before); used.switches < naps || used.cpu <= 0 {
		t.Errorf("%d naps were %d wake-ups and %v of CPU", naps, used.switches, used.cpu)
	}
}

func TestFieldOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(file, []byte("PssAnon:  1 kB\nPss:   42 kB\nEmpty:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := field(file, "Pss"); err != nil || n != 42 {
		t.Errorf("Pss: %d, %v", n, err)
	}
	for _, name := range []string{"Empty", "Absent"} {
		if n, err := field(file, name); err == nil {
			t.Errorf("%s: %d, want an error", name, n)
		}
	}
}

func TestChoose(t *testing.T) {
	got, err := choose([]string{"status", "start"})
	if err != nil || len(got) != 2 || got[0].name != "start" || got[1].name != "status" {
		t.Errorf("choose: %v, %v; want start, then status", got, err)
	}
	if all, err := choose(nil); err != nil || len(all) != len(benchmarks) {
		t.Errorf("no names choose %d, %v", len(all), err)
	}
	if _, err := choose([]string{"starts"}); err == nil {
		t.Error("an unknown name was accepted")
	}
}
