package runtime

// Status is the word that the file status gives.
type Status string

// The states of a box.
const (
	StatusEmpty      Status = "empty"      // no configuration yet
	StatusConfigured Status = "configured" // never started, or failed and configured anew
	StatusStarting   Status = "starting"   // its shim is being set up
	StatusRunning    Status = "running"    // its command runs
	StatusPaused     Status = "paused"     // frozen
	StatusStopping   Status = "stopping"   // asked to end, not yet gone
	StatusStopped    Status = "stopped"    // ran and ended: no process is left
	StatusRestarting Status = "restarting" // ended, and waits out the backoff before it is started again
	StatusFailed     Status = "failed"     // never got to run, or ended by its supervisor's fault
	StatusUnknown    Status = "unknown"    // its process could not be looked at
)

// Health is the word that the file health gives.
type Health string

// The health of a box.
const (
	HealthNone      Health = "none"      // no checks, or nothing that could be checked
	HealthStarting  Health = "starting"  // no probe has succeeded yet, and failures do not count
	HealthHealthy   Health = "healthy"   // the last probe succeeded, or too few in a row have failed
	HealthUnhealthy Health = "unhealthy" // too many failed in a row, or it died unasked
)

// moves is the state table: the moves of a box's life. Whatever is not in it is
// refused in update, and changes nothing.
var moves = map[Status][]Status{
	StatusUnknown:    {StatusEmpty, StatusConfigured, StatusRunning, StatusPaused, StatusStopping, StatusStopped, StatusRestarting, StatusFailed},
	StatusEmpty:      {StatusConfigured},
	StatusConfigured: {StatusStarting},
	StatusStarting:   {StatusRunning, StatusStopping, StatusRestarting, StatusFailed},
	StatusRunning:    {StatusPaused, StatusStopping, StatusStopped, StatusRestarting, StatusFailed},
	StatusPaused:     {StatusRunning, StatusStopping, StatusStopped, StatusRestarting, StatusFailed},
	StatusStopping:   {StatusStopped, StatusRestarting, StatusFailed},
	StatusStopped:    {StatusStarting},
	StatusRestarting: {StatusStarting, StatusStopped},
	StatusFailed:     {StatusStarting, StatusConfigured},
}

// CanMove reports whether the state table allows the move.
func CanMove(from, to Status) bool {
	for _, s := range moves[from] {
		if s == to {
			return true
		}
	}
	return false
}

// Active reports whether a box in this state may have a process.
func (s Status) Active() bool {
	switch s {
	case StatusStarting, StatusRunning, StatusPaused, StatusStopping, StatusUnknown:
		return true
	}
	return false
}
