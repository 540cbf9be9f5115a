// Package status has the words for the state of a box and of its health, the table of the
// moves from one state to another, and who may use a file of a box.
package status

import "slices"

// Status is the word that the file status gives.
type Status string

// The states of a box.
const (
	Empty      Status = "empty"      // no configuration yet
	Configured Status = "configured" // never started, or failed and configured anew
	Starting   Status = "starting"   // its shim is being set up
	Running    Status = "running"    // its command runs
	Paused     Status = "paused"     // frozen
	Stopping   Status = "stopping"   // asked to end, not yet gone
	Stopped    Status = "stopped"    // ran and ended: no process is left
	Restarting Status = "restarting" // ended, and waits out the backoff before it is started again
	Failed     Status = "failed"     // never got to run, or ended by its supervisor's fault
	Unknown    Status = "unknown"    // its process could not be looked at
)

// All returns every state there is.
func All() []Status {
	return []Status{Empty, Configured, Starting, Running, Paused, Stopping, Stopped, Restarting, Failed, Unknown}
}

// Active reports whether a box in this state may have a process.
func (s Status) Active() bool {
	switch s {
	case Starting, Running, Paused, Stopping, Unknown:
		return true
	}
	return false
}

// Ended reports whether the state is one that a run left behind, and no start is to come.
func (s Status) Ended() bool { return s == Stopped || s == Failed }

// moves is the state table: which states may follow a state. A box changes its state in no
// other way.
var moves = map[Status][]Status{
	Unknown:    {Empty, Configured, Running, Paused, Stopping, Stopped, Restarting, Failed},
	Empty:      {Configured},
	Configured: {Starting},
	Starting:   {Running, Stopping, Restarting, Failed},
	Running:    {Paused, Stopping, Stopped, Restarting, Failed},
	Paused:     {Running, Stopping, Stopped, Restarting, Failed},
	Stopping:   {Stopped, Restarting, Failed},
	Stopped:    {Starting},
	Restarting: {Starting, Stopped},
	Failed:     {Starting, Configured},
}

// CanMove reports whether the state table allows the move. To stay is no move, and not in it.
func CanMove(from, to Status) bool { return slices.Contains(moves[from], to) }

// Health is the word that the file health gives.
type Health string

// The health of a box.
const (
	HealthNone     Health = "none"      // no checks, or nothing that could be checked
	HealthStarting Health = "starting"  // no probe has succeeded yet, and failures do not count
	Healthy        Health = "healthy"   // the last probe succeeded, or too few in a row have failed
	Unhealthy      Health = "unhealthy" // too many failed in a row, or it died unasked
)
