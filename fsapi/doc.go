// Package fsapi is the facade: it turns requests on the control filesystem into
// calls of package runtime, and what happens there into what clients see.
//
// It holds no state of a box. The kernel runs a handler of open, write, setattr, mkdir or
// rmdir under a lock that other clients wait for. So three rules keep this package from ever
// hanging a client:
//
//   - Only reads of a streamFile, writes to the stdin of an exec, and the close of a ctl or a
//     cmd wait for a box.
//   - A wait ends when its client is interrupted, the box is removed or the daemon shuts down.
//   - Nothing here opens, stats or walks the mount. The notifier does (see package inotify),
//     but it is another process.
//
// The kernel caches names and their attributes for an hour, and is made to forget them on each
// change: see changes.go. It never caches contents: every open takes a snapshot. The files of a
// box, below its root/, are the exception. The box changes them and says nothing, so they are
// asked for each time: see boxroot.go.
//
// A file or directory of the tree embeds node. Its place says where it is, and its subject
// what it is about.
package fsapi
