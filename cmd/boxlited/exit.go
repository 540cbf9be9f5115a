package main

import (
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"
)

// The exit codes of boxlited. Scripts and service managers may rely on them.
const (
	exitOK    = 0 // ended as asked
	exitOther = 1 // an error that has no code of its own
	exitUsage = 2 // the command line is wrong
	exitLock  = 3 // another boxlited uses the state directory
	exitMount = 4 // the mount point is in use, or the mount failed or was taken away
	exitState = 5 // the state directory cannot be used
	exitShim  = 6 // the shim's binary is missing
	exitBug   = 7 // a request has met a bug: see exitOnPanic
)

// panicLogBound is how long the log may take to say why the daemon ends.
const panicLogBound = time.Second

// exitOnPanic returns what ends the daemon, at once, when a request has panicked. A lock
// may be held, so nothing is waited for but the log, and that not for long.
func exitOnPanic(log *logrus.Entry) func(value any, stack []byte) {
	return func(value any, stack []byte) {
		said := make(chan struct{})
		go func() {
			log.WithFields(logrus.Fields{"op": "panic", "err": fmt.Sprint(value), "stack": string(stack)}).
				Error("a bug: a request has panicked, and boxlited ends; boxes live on, and the next boxlited finds them")
			if q, ok := log.Logger.Out.(*logQueue); ok {
				q.flush()
			}
			close(said)
		}()
		select {
		case <-said:
		case <-time.After(panicLogBound):
		}
		os.Exit(exitBug)
	}
}
