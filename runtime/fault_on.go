//go:build faults

package runtime

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// armed is the point that BOXLITE_FAULT=NAME[:N] names, and how many passes are
// left until it is the N-th. With BOXLITE_FAULT_BY=panic that one panics.
var armed struct {
	name   string
	left   atomic.Int64
	panics bool
}

func init() {
	name, count, _ := strings.Cut(os.Getenv("BOXLITE_FAULT"), ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if count == "" {
		n, err = 1, nil
	}
	if err != nil || n < 1 {
		panic("BOXLITE_FAULT: " + count + " is no number of passes")
	}
	armed.name, armed.panics = name, os.Getenv("BOXLITE_FAULT_BY") == "panic"
	armed.left.Store(n)
}

// Fault ends the process as kill -9 does, or panics, when it passes the armed point. What of
// holds is part of the name: it tells apart what passes the same line.
func Fault(point string, of ...string) {
	name := strings.Join(append([]string{point}, of...), "/")
	if name != armed.name || armed.left.Add(-1) != 0 {
		return
	}
	if armed.panics {
		panic("fault point " + name)
	}
	// Its other threads get no further than this one: the signal is theirs too.
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// faultIn is Fault in the middle of deleting a directory.
func faultIn(point string, path ...string) {
	if dir := filepath.Join(path...); point == armed.name && armed.left.Load() == 1 {
		if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
			_ = os.RemoveAll(filepath.Join(dir, left[0].Name()))
		}
	}
	Fault(point)
}
