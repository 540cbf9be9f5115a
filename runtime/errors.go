package runtime

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/boxlitefs/boxlite/runtime/status"
)

// The kinds of refusal and failure. Compare with errors.Is.
var (
	// ErrName: the name breaks the rule for names of boxes.
	ErrName = errors.New("a name is 1 to 64 letters, digits, '_', '.' or '-' and begins with a letter or digit")
	// ErrExist: a box of that name exists.
	ErrExist = errors.New("it exists already")
	// ErrRemoved: the box was removed while it was still held.
	ErrRemoved = errors.New("the box was removed")
	// ErrBusy: the box has a process, or is between two states.
	ErrBusy = errors.New("busy")
	// ErrNotConfigured: the box has no configuration to start with.
	ErrNotConfigured = errors.New("it has no configuration: write config.yaml first")
	// ErrNoProcess: the command needs a running process.
	ErrNoProcess = errors.New("no process is running")
	// ErrTimedOut: a force-stop was not reaped in its bound.
	ErrTimedOut = errors.New("not reaped in time")
	// ErrStart: a start was accepted and failed.
	ErrStart = errors.New("start failed")
	// ErrCanceled: what is waited for cannot come any more.
	ErrCanceled = errors.New("it will not happen any more")
	// ErrClosed: the daemon is shutting down.
	ErrClosed = errors.New("the daemon is shutting down")
	// ErrHost: this host lacks what every box needs.
	ErrHost = errors.New("this host cannot run boxes")
	// ErrInvalid: an argument is out of its range.
	ErrInvalid = errors.New("invalid argument")
	// ErrNoExec: there is no exec of that name.
	ErrNoExec = errors.New("there is no such exec")
	// ErrExecs: the box has as many execs as it may.
	ErrExecs = fmt.Errorf("%w: a box has at most %d execs: rmdir those that have ended", syscall.ENOSPC, MaxExecs)
	// ErrDenied: who asks may not have that.
	ErrDenied = errors.New("not permitted")
	// ErrPipe: nobody will read what would be written.
	ErrPipe = errors.New("nobody reads it any more")
)

// Error says which box an operation failed on, and why.
type Error struct {
	Box string // name of the box
	Op  string // start, stop, kill, config, create, remove, …
	Err error  // one of the sentinels or a cause of its own, perhaps wrapped
}

// Error returns one sentence that names the box and the operation.
func (e *Error) Error() string { return fmt.Sprintf("box %q: %s: %v", e.Box, e.Op, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// TransitionError is the refusal of a move that the state table does not allow.
type TransitionError struct{ From, To status.Status }

// Error names both states.
func (e *TransitionError) Error() string {
	return fmt.Sprintf("a box that is %s cannot become %s", e.From, e.To)
}

// Is makes a refused move a kind of ErrBusy.
func (e *TransitionError) Is(target error) bool { return target == ErrBusy }
