package wire

import (
	"strconv"
	"unicode/utf8"
)

// RecordName is the exit record's name in a box's directory.
const RecordName = "exit.json"

// What ended a run, as ExitRecord.StoppedBy says it.
const (
	StoppedByItself     = ""            // the command ended unasked
	StoppedByStop       = "stop"        // a Stop over the control socket
	StoppedByTerm       = "term"        // a SIGTERM sent to the shim, or a SIGHUP, SIGINT or SIGQUIT
	StoppedByDaemonDied = "daemon-died" // Spec.DieWithDaemon
	StoppedByTimeout    = "timeout"     // ExecSpec.TimeoutNs; of an exec only
)

// ExitRecord is how a run ended. The shim writes it, as JSON, to [RecordName]
// before it exits; it is the only source of a box's exit code. That of an exec is in
// the exec's directory, and is written when its command has ended.
type ExitRecord struct {
	// Run is Spec.Run.
	Run string `json:"run"`
	// Code is the command's exit code, 128+N when signal N killed it, and 125
	// when it never ran.
	Code int `json:"code"`
	// Signal is the signal that killed the command, or 0.
	Signal int `json:"signal"`
	// CoreDumped says that the command left a core dump.
	CoreDumped bool `json:"core_dumped"`
	// StoppedBy is one of the StoppedBy constants.
	StoppedBy string `json:"stopped_by"`
	// Failed is the sentence why the command never ran, else empty.
	Failed string `json:"failed"`
	// StartedNs and EndedNs are wall clock times in nanoseconds since 1970.
	// StartedNs is 0 when the command never ran.
	StartedNs int64 `json:"started_ns"`
	EndedNs   int64 `json:"ended_ns"`
	// CPUUsec is the user and system time, in microseconds, of all processes
	// that had been reaped when the record was written.
	CPUUsec int64 `json:"cpu_usec"`
}

// AppendJSON appends the record as one JSON object and a newline.
// encoding/json would double what the shim links.
func (r *ExitRecord) AppendJSON(b []byte) []byte {
	b = appendJSONString(append(b, `{"run":`...), r.Run)
	b = strconv.AppendInt(append(b, `,"code":`...), int64(r.Code), 10)
	b = strconv.AppendInt(append(b, `,"signal":`...), int64(r.Signal), 10)
	b = strconv.AppendBool(append(b, `,"core_dumped":`...), r.CoreDumped)
	b = appendJSONString(append(b, `,"stopped_by":`...), r.StoppedBy)
	b = appendJSONString(append(b, `,"failed":`...), r.Failed)
	b = strconv.AppendInt(append(b, `,"started_ns":`...), r.StartedNs, 10)
	b = strconv.AppendInt(append(b, `,"ended_ns":`...), r.EndedNs, 10)
	b = strconv.AppendInt(append(b, `,"cpu_usec":`...), r.CPUUsec, 10)
	return append(b, '}', '\n')
}

// appendJSONString appends s quoted. A message may quote any path, so bytes
// that are not UTF-8 do occur; they become U+FFFD, as in encoding/json.
func appendJSONString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
