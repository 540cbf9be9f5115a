package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/fsapi/inotify"
)

// notifierName is the name, as ps shows it, under which boxlited starts itself as
// its notifier. No command line of a person has it.
const notifierName = "boxlited: notifier"

// notifierConn is the descriptor that connects the notifier with the daemon.
const notifierConn = 3

// spawnNotifier starts this program as the notifier.
func spawnNotifier(conn *os.File, args []string) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	// The file may have been replaced by an upgrade; this is what runs.
	p, err := os.StartProcess("/proc/self/exe", append([]string{notifierName}, args...), &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1"},
		Files: []*os.File{null, null, os.Stderr, conn},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	return p, errors.Join(err, null.Close())
}

func runNotifier() int {
	if err := inotify.Run(notifierConn, os.Args[1:]); err != nil {
		// At once or not at all: see partStderr.
		_, _ = unix.Write(unix.Stderr, fmt.Appendf(nil, "%s: %v\n", notifierName, err))
		return exitOther
	}
	return exitOK
}
