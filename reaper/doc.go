// Package reaper kills processes and proves that they are gone.
//
// A process is held by pidfd, so that a reused pid is never signalled, and is
// recognised after a restart of the daemon by its Identity. One Watcher waits
// for all of them in one epoll: it learns of a death when the kernel does, and
// costs no thread and no timer a process. How a wait ended is a value, the
// Outcome, and only outcomes that prove the process gone permit anything
// destructive.
//
// The package knows no box: it deals in processes.
package reaper
