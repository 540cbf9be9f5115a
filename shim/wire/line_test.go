package wire

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

func fullAnswer() LineAnswer {
	return LineAnswer{Op: LineProbe, Seq: 7, Errno: syscall.EBUSY, Begun: true, Alive: true, Stopping: true, Paused: true,
		Result: ProbeResult{TimedOut: true, Code: 137, Duration: time.Second, Reason: "r", Output: []byte("a\x00\xff")}}
}

func TestLineRoundTrip(t *testing.T) {
	want := fullAnswer()
	got, err := DecodeLineAnswer(want.Append(nil))
	if err != nil || fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for n, whole := 0, want.Append(nil); n < len(whole); n++ {
		if _, err := DecodeLineAnswer(whole[:n]); err == nil {
			t.Errorf("an answer cut to %d bytes was accepted", n)
		}
	}
	call := LineCall{Op: LineLog, Seq: 1 << 31}
	if got, err := DecodeLineCall(call.Append(nil)); err != nil || got != call {
		t.Errorf("got %+v, %v; want %+v", got, err, call)
	}
}

func TestLineAnswerIsBounded(t *testing.T) {
	a := LineAnswer{Result: ProbeResult{Reason: strings.Repeat("é", MaxLineAnswer), Output: bytes.Repeat([]byte{1}, 2*MaxProbeOutput)}}
	b := a.Append(nil)
	if len(b) != MaxLineAnswer {
		t.Errorf("%d bytes, not %d", len(b), MaxLineAnswer)
	}
	got, err := DecodeLineAnswer(b)
	if err != nil || got.Result.Reason != strings.Repeat("é", maxReason/2) || len(got.Result.Output) != MaxProbeOutput {
		t.Errorf("got %+v, %v", got, err)
	}
	a.Result.Reason = "x" + a.Result.Reason
	if got, err = DecodeLineAnswer(a.Append(nil)); err != nil || got.Result.Reason != "x"+strings.Repeat("é", maxReason/2-1) {
		t.Errorf("got %q, %v", got.Result.Reason, err)
	}
}

func FuzzLine(f *testing.F) {
	a := fullAnswer()
	f.Add(a.Append(nil))
	f.Add((&LineAnswer{}).Append(nil))
	f.Add(LineCall{Op: LineProbe, Seq: 3}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := DecodeLineAnswer(b); err == nil && !bytes.Equal(a.Append(nil), b) {
			t.Fatalf("answer %x", b)
		}
		if c, err := DecodeLineCall(b); err == nil && !bytes.Equal(c.Append(nil), b) {
			t.Fatalf("call %x", b)
		}
	})
}
