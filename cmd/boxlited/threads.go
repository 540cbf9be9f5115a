package main

import (
	goruntime "runtime"

	"github.com/boxlitefs/boxlite/runtime"
)

// makeThreads makes the threads that the daemon will need. The Go runtime makes one when
// it finds none at rest, and ends the process when it can't, because the daemon's cgroup
// may have no more tasks: processes and threads, also those of shims. What is at rest
// stays: only a goroutine that ends while it is locked to its thread takes that along.
func makeThreads() error {
	n := goruntime.NumCPU() + runtime.SpareThreads
	if err := runtime.CheckTasks(n); err != nil {
		return err
	}
	made, rest := make(chan struct{}), make(chan struct{})
	for range n {
		go func() {
			// A goroutine that is locked to its thread keeps it while it waits.
			goruntime.LockOSThread()
			made <- struct{}{}
			<-rest
			goruntime.UnlockOSThread()
		}()
	}
	for range n {
		<-made
	}
	close(rest)
	return nil
}
