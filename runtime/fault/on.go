//go:build faults

package fault

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// RootOfHost says whether the files of boxes of engine host are offered too. Tests of those
// files need no container then.
var RootOfHost = os.Getenv("BOXLITE_ROOT_OF_HOST") != ""

// armed is the point that is armed.
var armed struct {
	name   string
	left   atomic.Int64 // passes until it takes effect, that one included
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

// Point ends the process as kill -9 does, or panics, when it passes the armed point. The words
// of are part of the name, each after a slash: they tell apart what passes the same line.
func Point(point string, of ...string) {
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

// PointIn is Point in the middle of deleting the directory path: at the armed pass, the first
// thing in it is deleted before.
func PointIn(point string, path ...string) {
	if dir := filepath.Join(path...); point == armed.name && armed.left.Load() == 1 {
		if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
			_ = os.RemoveAll(filepath.Join(dir, left[0].Name()))
		}
	}
	Point(point)
}
