package fsapi

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime"
)

func TestCommandLines(t *testing.T) {
	second := time.Second
	for _, c := range []struct {
		text string
		want []runtime.Command
	}{
		{"start\n", []runtime.Command{{Verb: "start"}}},
		{"kill", []runtime.Command{{Verb: "kill"}}},
		{"\n  stop\t1s \n\n start\n", []runtime.Command{{Verb: "stop", Grace: &second}, {Verb: "start"}}},
		{"signal TERM\nsignal sigusr1\nsignal 9\n", []runtime.Command{
			{Verb: "signal", Signal: syscall.SIGTERM}, {Verb: "signal", Signal: syscall.SIGUSR1}, {Verb: "signal", Signal: syscall.SIGKILL},
		}},
		{"pause\r\nresume\r\n", []runtime.Command{{Verb: "pause"}, {Verb: "resume"}}},
		{"", nil}, {"\n\n", nil}, {"starten", nil}, {"start now", nil}, {"stop 5", nil}, {"stop -5s", nil}, {"stop 1s 2s", nil},
		{"signal", nil}, {"signal NOPE", nil}, {"start\nbogus\n", nil}, {"START", nil}, {"start\x00", nil},
	} {
		got, err := parseCommands(boxTarget{}, c.text)
		if c.want == nil {
			if err == nil || toErrno(err) != syscall.EINVAL {
				t.Errorf("%q: got %v, %v, want EINVAL", c.text, got, err)
			}
			continue
		}
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%q: got %v, %v", c.text, got, err)
			continue
		}
		for i, w := range c.want {
			g := got[i]
			if g.Verb != w.Verb || g.Signal != w.Signal || (g.Grace == nil) != (w.Grace == nil) || g.Grace != nil && *g.Grace != *w.Grace {
				t.Errorf("%q: command %d is %+v, want %+v", c.text, i, g, w)
			}
		}
	}
}

func FuzzCommands(f *testing.F) {
	for _, s := range []string{"start\n", "stop 10s\nstart", "signal TERM\n", "restart 1h\n", "kill kill", "\x00", "stop 9999999999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseCommands(boxTarget{}, text)
		if err != nil {
			if !errors.Is(err, runtime.ErrInvalid) || len(got) != 0 {
				t.Fatalf("%q: %v, %v", text, got, err)
			}
			return
		}
		for _, c := range got {
			if c.Grace != nil && *c.Grace < 0 || c.Verb == runtime.VerbSignal && (c.Signal < 1 || c.Signal > 64) {
				t.Fatalf("%q gave %+v", text, c)
			}
		}
	})
}
