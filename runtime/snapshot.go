package runtime

import (
	"time"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// Field names what of a box changed, for the observer and for file times.
type Field uint

// The observable fields of a box. Each stands for a file.
const (
	FieldStatus Field = 1 << iota
	FieldHealth
	FieldPID
	FieldExitCode
	FieldLastError
	FieldConfig
	FieldEvents
	FieldOwner // an owner or mode of a file; see Box.Owner
	FieldLog   // the log has grown; told without a new snapshot, and no part of FieldInfo
	FieldInfo  // anything at all: info.json tells everything
	numFields  = iota
)

// Snapshot is the state of a box at one moment. It is never changed after it was
// published: a change publishes another.
type Snapshot struct {
	Status    status.Status
	Health    status.Health
	PID       int // host pid of the shim, -1 when there is none
	ExitCode  int // of the last run; -1 when none, or nobody witnessed it
	LastError string
	// Detail is what a start waits for, or empty.
	Detail string
	// Config is what the next start will use, and Text its bytes as written.
	// Config is nil while there is none.
	Config *config.Config
	Text   []byte
	// Pending says that Config was changed since the running process started.
	Pending bool
	// Restarting says that a restart was asked for and its start is still to come.
	Restarting bool
	// Removed says that the box is gone; nothing else changes any more.
	Removed bool

	// RestartAt is when a box that is restarting is started again.
	RestartAt time.Time

	Runs int // starts so far
	// Restarts is how many of them nobody asked for.
	Restarts int
	Started  time.Time // of the last run; zero before the first
	Ended    time.Time // of the last run that ended
	Created  time.Time
	// CPU is the processor time that the last ended run used.
	CPU time.Duration
	// OOMKills is how many processes of the last run the OOM killer took.
	OOMKills uint64

	owners    map[string]status.Owner
	run       *run
	effective *Effective // of the last container
	changed   [numFields]time.Time
	next      chan struct{}
}

// Changed returns when the field changed last.
func (s *Snapshot) Changed(f Field) time.Time {
	for i := range s.changed {
		if f == 1<<i {
			return s.changed[i]
		}
	}
	return s.Created
}

// Next is closed when a newer snapshot has been published.
func (s *Snapshot) Next() <-chan struct{} { return s.next }

// diff tells which fields differ between two snapshots.
func (s *Snapshot) diff(o *Snapshot) Field {
	var f Field
	set := func(differs bool, bit Field) {
		if differs {
			f |= bit | FieldInfo
		}
	}
	set(s.Status != o.Status, FieldStatus)
	set(s.Health != o.Health, FieldHealth)
	set(s.PID != o.PID, FieldPID)
	set(s.ExitCode != o.ExitCode, FieldExitCode)
	set(s.LastError != o.LastError, FieldLastError)
	set(string(s.Text) != string(o.Text) || s.Config != o.Config, FieldConfig)
	set(s.Pending != o.Pending || s.Restarting != o.Restarting || s.Detail != o.Detail || s.Removed != o.Removed || s.Runs != o.Runs || s.Restarts != o.Restarts || !s.RestartAt.Equal(o.RestartAt) || s.OOMKills != o.OOMKills || s.run != o.run || s.effective != o.effective || !s.Started.Equal(o.Started), FieldInfo)
	return f
}
