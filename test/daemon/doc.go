// Package daemon runs the real boxlited for tests and is its client.
//
// A test gets a Home: a directory of its own with a mount point and a state
// directory. Start runs the daemon in it and returns when that has said READY=1.
// When the test ends the Home stops what is left and fails the test for what
// should not have been left: a shim that is on no record, a zombie, a mount, a
// race that the daemon saw in itself.
//
// The process that runs the tests is only ever a client of the mount. Each of
// its calls runs on a thread of its own that takes no signals (one that the
// runtime or a child brings about would interrupt a waiting request) and under a
// bound: a mount that hangs fails the test, and is aborted at its end.
package daemon
