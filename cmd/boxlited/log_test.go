package main

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// stalled is a log that is read only from some moment on.
type stalled struct {
	read chan struct{} // closed from then on
	mu   sync.Mutex
	got  bytes.Buffer
}

func (s *stalled) Write(b []byte) (int, error) {
	<-s.read
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

func TestTheLogIsDroppedAndNotWaitedFor(t *testing.T) {
	out := &stalled{read: make(chan struct{})}
	q := newLogQueue(out)
	q.notice = func(lost uint64) []byte { return fmt.Appendf(nil, "lost %d\n", lost) }
	const writers, each = 4, 200
	line := strings.Repeat("x", logRoom/writers/each*2) // in all twice as much as there is room for
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				fmt.Fprintf(q, "%d %d %s\n", w, n, line)
			}
		})
	}
	wg.Wait() // nobody has read, and nobody has waited
	lost := q.Dropped()
	if lost == 0 || lost >= writers*each {
		t.Fatalf("%d of %d lines dropped", lost, writers*each)
	}
	close(out.read)
	q.flush()
	fmt.Fprintln(q, "the last one")
	q.flush()
	out.mu.Lock()
	defer out.mu.Unlock()
	lines := strings.Split(strings.TrimSuffix(out.got.String(), "\n"), "\n")
	next, came, told := [writers]int{}, 0, 0
	for _, l := range lines[:len(lines)-1] {
		var w, n int
		if _, err := fmt.Sscanf(l, "lost %d", &n); err == nil {
			told += n
		} else if _, err := fmt.Sscan(l, &w, &n); err != nil || n < next[w] {
			t.Fatalf("line %.20q comes after %d", l, next[w])
		} else {
			next[w], came = n+1, came+1
		}
	}
	if came+told != writers*each || told != int(lost) || lines[len(lines)-1] != "the last one" {
		t.Errorf("%d lines came out and %d are told to be lost, of %d and %d; at last came %.20q", came, told, writers*each, lost, lines[len(lines)-1])
	}
}
