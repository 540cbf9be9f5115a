package wire

import (
	"errors"
	"syscall"
)

// StartError says why a box's command was never run.
type StartError struct {
	// Step is what failed: one of the Step constants.
	Step string
	// Errno is why, or 0 when Detail says it all.
	Errno syscall.Errno
	// Detail says what was tried, naming the file, user or limit.
	Detail string
}

// The steps of a start, in order.
const (
	StepLaunch       = "launch"
	StepSpec         = "spec"
	StepNamespace    = "namespace"
	StepCgroup       = "cgroup"
	StepMount        = "mount"
	StepMask         = "mask"
	StepReadonlyRoot = "readonly-root"
	StepHostname     = "hostname"
	StepNetwork      = "network"
	StepLog          = "log"
	StepExecFiles    = "streams"
	StepLookup       = "lookup"
	StepFork         = "fork"
	StepRlimit       = "rlimit"
	StepCapabilities = "capabilities"
	StepUser         = "user"
	StepWorkdir      = "workdir"
	StepPrivileges   = "no-new-privileges"
	StepExec         = "exec"
	StepRuntime      = "runtime"
)

// Error gives one sentence, without the box's name: what could not be done, why,
// and at which step.
func (e *StartError) Error() string {
	why := e.Detail
	switch {
	case e.Errno == 0 || e.Step == StepLookup:
	case e.Step == StepExec && e.Errno == syscall.ENOEXEC:
		why += ": exec format error (is the #! line missing?)"
	case e.Step == StepExec && e.Errno == syscall.ENOENT:
		why += ": no such file or directory (is its interpreter missing?)"
	default:
		why += ": " + e.Errno.Error()
	}
	return why + " (step " + e.Step + ")"
}

// Unwrap gives Errno to errors.Is.
func (e *StartError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// NewStartError makes a StartError of an error of a system call.
func NewStartError(step, detail string, err error) *StartError {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return &StartError{Step: step, Errno: errno, Detail: detail}
	}
	return &StartError{Step: step, Detail: detail + ": " + err.Error()}
}

// MaxReport bounds a report, in bytes, so that it goes through the pipe in one piece
// (PIPE_BUF), and a daemon that reads late cannot hold up the shim.
const MaxReport = 4096

// AppendReport encodes how the start went: when the command was started, or
// failed with why it was not.
func AppendReport(b []byte, startedNs int64, failed *StartError) []byte {
	b = append(b, Version)
	b = appendI64(b, startedNs)
	b = appendBool(b, failed != nil)
	if failed != nil {
		detail := failed.Detail
		if room := MaxReport - len(b) - 12 - len(failed.Step); len(detail) > room {
			detail = detail[:room]
		}
		b = appendU32(b, uint32(failed.Errno))
		b = appendString(b, failed.Step)
		b = appendString(b, detail)
	}
	return b
}

// DecodeReport is the inverse of AppendReport. A failure too long for MaxReport was cut.
func DecodeReport(b []byte) (startedNs int64, failed *StartError, err error) {
	d := decoder{buf: b}
	if d.u8() != Version {
		d.bad = true
	}
	startedNs = d.i64()
	if d.bool() {
		failed = &StartError{Errno: syscall.Errno(d.u32()), Step: d.string(), Detail: d.string()}
	}
	return startedNs, failed, d.end()
}
