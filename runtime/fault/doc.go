// Package fault has the points at which a build with the tag faults ends the daemon, for the
// tests of crashes. Without the tag it is empty, and leaves nothing in the program.
//
// BOXLITE_FAULT=NAME[:N] arms a point: its N-th pass, the first unless N says otherwise, ends the
// process as kill -9 does. With BOXLITE_FAULT_BY=panic it panics there.
package fault
