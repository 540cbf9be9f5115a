// Package runtime is the core of boxlite: boxes, their states, their
// configuration, what is kept of them on disk, and their recovery.
//
// A Box is owned by its state machine: every change goes through one function
// (update) that checks it against the table of allowed moves, publishes an
// immutable Snapshot and tells the observer. Readers take the snapshot and no
// lock. What takes time (a start, the grace of a stop, the reaping after a kill)
// runs beside, so that a command always gets through to the box.
//
// The package knows nothing of FUSE and of errno: its errors are the sentinels
// of errors.go, wrapped in Error.
package runtime
