//go:build linux && (amd64 || arm64)

package shim

import "runtime"

// spareThreads is how many threads a shim has beside those that the Go runtime starts
// at once. A shim does one thing at a time, so that another thread is only needed while
// that waits in the kernel, and two more when those before are just going to rest: on a busy
// machine that takes a while.
const spareThreads = 3

// makeThreads makes the threads that the shim will need. The Go runtime makes one when it
// finds none at rest, and ends the process when it can't: a box would be lost because its
// daemon's cgroup has no room for one more task.
func makeThreads() {
	made, rest := make(chan struct{}), make(chan struct{})
	for range spareThreads {
		go func() {
			// A goroutine that is locked to its thread keeps it while it waits.
			runtime.LockOSThread()
			made <- struct{}{}
			<-rest
			runtime.UnlockOSThread()
		}()
	}
	for range spareThreads {
		<-made
	}
	close(rest)
}
