package runtime

import (
	goruntime "runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

func TestATextIsMadeOncePerState(t *testing.T) {
	var x texts[int]
	var made atomic.Int64
	get := func(state int) *Text {
		return x.of(state, func() []byte {
			made.Add(1)
			return []byte(strconv.Itoa(state))
		})
	}
	got := make([]*Text, 64)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i] = get(1) })
	}
	all.Wait()
	for _, text := range got {
		if text != got[0] || string(text.Bytes) != "1" {
			t.Fatalf("%q, and another", text.Bytes)
		}
	}
	if n := made.Load(); n != 1 {
		t.Errorf("made %d times", n)
	}
	if text := get(2); string(text.Bytes) != "2" {
		t.Errorf("the next state shows %q", text.Bytes)
	}
	if string(got[0].Bytes) != "1" {
		t.Errorf("who has the first reads %q", got[0].Bytes)
	}
	goruntime.KeepAlive(got)
}

func TestATextThatNobodyHasIsForgotten(t *testing.T) {
	var x texts[int]
	x.of(1, func() []byte { return make([]byte, 1<<20) })
	goruntime.GC()
	if x.last.Value() != nil {
		t.Error("it is still there")
	}
}
