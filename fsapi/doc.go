// Package fsapi is the facade: it turns requests on the control filesystem into
// calls of package runtime, and what happens there into what clients see.
//
// It holds no state of a box. Three rules keep it from ever hanging a client
// (they are the kernel's: a handler of open, write, setattr, mkdir or rmdir runs
// under a lock that other clients wait for): only reads in wait/ and the flush of
// ctl wait for a box; whatever waits ends when its client is interrupted, the box
// is removed or the daemon shuts down; and nothing here ever opens, stats or
// walks the mount, but for the notifier, which is a process of its own: inotify sees
// what the daemon changes because that touches it.
//
// Names and their attributes are cached by the kernel for long and dropped
// explicitly on each change (see FS.BoxChanged), contents never are: every open
// takes a snapshot. The files of a box, below its root/, are the exception: the box changes
// them without a word, so they are asked for each time (see rootDirHold).
package fsapi
