// Package client is the daemon's side of a box's supervisor.
//
// [Launch] forks a shim. [Ask], [AskExec] and [AskEnd] send it one request each over the
// socket in the box's directory; [WatchLog] and [WatchExecs] hear of changes, [Tether] of its
// end, and [OpenLine] opens the one connection over which it is pinged and probes its box.
//
// A box's directory is all that these functions need to know: a daemon that was restarted
// talks to the shims of the one before it.
package client
