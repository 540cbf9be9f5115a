package runtime

import (
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/boxlitefs/boxlite/runtime/event"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// Stream is what a file in wait/ reads from. Its position is its own: offsets
// mean nothing to it.
type Stream interface {
	// Poll never blocks. It puts what is there into p; if nothing is yet, it
	// returns 0 and a channel that is closed when it is worth asking again. It
	// returns io.EOF at the end.
	Poll(p []byte) (n int, more <-chan struct{}, err error)
	// Close releases what the stream holds.
	Close()
}

// answer is a stream of one line, given when what is waited for has come.
type answer struct {
	ask func() (text string, more <-chan struct{}, err error)

	mu   sync.Mutex
	told bool
	rest []byte
}

func (a *answer) Poll(p []byte) (int, <-chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.told {
		text, more, err := a.ask()
		if err != nil || more != nil {
			return 0, more, err
		}
		a.told, a.rest = true, []byte(text+"\n")
	}
	if len(a.rest) == 0 {
		return 0, nil, io.EOF
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil, nil
}

func (a *answer) Close() {}

// WaitRunning gives "running" once the box runs, and ErrCanceled when it will
// not by itself: it is stopped, failed or removed.
func (b *Box) WaitRunning() Stream {
	return &answer{ask: func() (string, <-chan struct{}, error) {
		s := b.Snapshot()
		switch {
		case s.Removed:
			return "", nil, b.fail("wait", fmt.Errorf("%w: %w", ErrCanceled, ErrRemoved))
		case s.Status == status.Running:
			return string(status.Running), nil, nil
		case s.Status.Ended() && !s.Restarting:
			return "", nil, b.fail("wait", fmt.Errorf("%w: it is %s", ErrCanceled, s.Status))
		}
		return "", s.Next(), nil
	}}
}

// WaitHealthy gives "healthy" once the box is, and ErrCanceled when it will not be
// by itself: it is stopped, failed or removed, or its checks are disabled.
func (b *Box) WaitHealthy() Stream {
	return &answer{ask: func() (string, <-chan struct{}, error) {
		s := b.Snapshot()
		c := s.Config
		if r, going := s.Run(); going {
			c = r.r.cfg
		}
		switch {
		case s.Removed:
			return "", nil, b.fail("wait", fmt.Errorf("%w: %w", ErrCanceled, ErrRemoved))
		case s.Health == status.Healthy:
			return string(status.Healthy), nil, nil
		case s.Status.Ended() && !s.Restarting:
			return "", nil, b.fail("wait", fmt.Errorf("%w: it is %s", ErrCanceled, s.Status))
		case c != nil && c.Health.Disabled:
			return "", nil, b.fail("wait", fmt.Errorf("%w: its health checks are disabled", ErrCanceled))
		}
		return "", s.Next(), nil
	}}
}

// WaitExit gives the exit code of the run that goes on now, once that has ended,
// whatever the box does then; without one, the exit code of the last.
func (b *Box) WaitExit() Stream {
	opened := b.Snapshot()
	r, going := opened.Run()
	return &answer{ask: func() (string, <-chan struct{}, error) {
		if going {
			select {
			case <-r.Done():
				return strconv.Itoa(r.ExitCode()), nil, nil
			default:
				return "", r.Done(), nil
			}
		}
		s := b.Snapshot()
		switch {
		case s.Removed:
			return "", nil, b.fail("wait", ErrRemoved)
		case s.Status == status.Unknown:
			return "", s.Next(), nil
		case opened.Status == status.Unknown:
			opened = s
			if r, going = s.Run(); going {
				return "", r.Done(), nil
			}
		}
		return strconv.Itoa(opened.ExitCode), nil, nil
	}}
}

// goesOn reports whether there may be a process, or one is to be started again.
func (s *Snapshot) goesOn() bool {
	return !s.Removed && (s.Status.Active() || s.Status == status.Restarting || s.Restarting)
}

// WaitStopped gives the exit code of the last run once no process is left and
// none is to be started again.
func (b *Box) WaitStopped() Stream {
	waited := b.Snapshot().goesOn()
	return &answer{ask: func() (string, <-chan struct{}, error) {
		s := b.Snapshot()
		switch {
		case s.goesOn():
			waited = true
			return "", s.Next(), nil
		case s.Removed && !waited:
			return "", nil, b.fail("wait", ErrRemoved)
		}
		// Also when it was removed on its exit: that is what was waited for.
		return strconv.Itoa(s.ExitCode), nil, nil
	}}
}

// lostLine is what a reader that fell behind gets instead of what it has lost: so
// many events, or bytes of a log.
const lostLine = "- - - lost count=%d\n"

// eventStream gives events as they come.
type eventStream struct {
	cursor *event.Cursor

	mu   sync.Mutex
	rest []byte
}

// eventLine is about how long an event is as a line.
const eventLine = 80

// Poll takes no more out of the ring than a read is about to take away, so that a
// reader that is slow costs no more than a line or so.
func (e *eventStream) Poll(p []byte) (int, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.rest) == 0 {
		got, lost, more := e.cursor.Next(1 + len(p)/eventLine)
		switch {
		case more != nil:
			return 0, more, nil
		case len(got) == 0 && lost == 0:
			return 0, nil, io.EOF
		}
		e.rest = nil
		if lost > 0 {
			e.rest = fmt.Appendf(e.rest, lostLine, lost)
		}
		for _, ev := range got {
			e.rest = ev.AppendText(e.rest)
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil, nil
}

func (e *eventStream) Close() {}

// WaitEvent gives the events of all boxes from now on.
func (rt *Runtime) WaitEvent() Stream {
	return &eventStream{cursor: rt.Follow()}
}

// WaitEvent gives the box's events from now on, and ends after its removal.
func (b *Box) WaitEvent() Stream {
	return &eventStream{cursor: b.Follow()}
}
