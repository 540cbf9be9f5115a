//go:build linux && (amd64 || arm64)

// Package shim is the supervisor of one box.
//
// The shim is the process that a box hangs on: init of its pid namespace and
// owner of its mount namespace. When it dies the kernel kills all of the box,
// so a reaped shim means that the whole box is gone. It also is what outlives
// the daemon, and it keeps the box's log and exit record.
//
// [Main] is the whole program. It is one thread on one epoll loop, on purpose: a
// host has one shim a box, so what it links and what it starts is paid a
// thousand times. The package therefore imports none of net, fmt, os, os/exec and
// encoding/json. What it says to the daemon is in package wire, and the daemon's end
// in package client.
//
// # Health
//
// A daemon that watches thousands of boxes keeps a line to each shim: one open
// connection, over which it pings, has the box probed and hears that the log has
// grown. See [wire.LineOp] for the calls. A shim has one line: the newest takes over from
// the one before. The line that goes, because another came or its daemon died, takes
// the probe that it asked for with it, and all that this has started.
//
// A probe is made in the box, by the shim: a command is run as the box's own is, and
// connections are made from the box's network. The shim waits for none of it. In
// particular it does not wait for the command of a probe to be executed, which a
// frozen or throttled box, or a file system that does not answer, may put off for
// ever; a probe may begin, and its box be frozen, in any order.
//
// # Launching
//
// The shim inherits exactly these descriptors:
//
//	0  /dev/null
//	1  shim.log in the box's directory, for what the shim itself has to say
//	2  the same
//	3  the pipe that the Spec comes through
//	4  the pipe that says whether the command was started
//	5  the box's directory
//	6  the control socket, already listening
//	7  a pipe that the daemon holds open (only with Spec.DieWithDaemon)
//
// It prepares what needs no Spec and waits. A pipe 3 that closes before a whole
// Spec came means that the daemon died before it could record the shim's pid;
// the shim then exits, and nothing of the box has run.
package shim
