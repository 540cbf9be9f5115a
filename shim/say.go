//go:build linux && (amd64 || arm64)

package shim

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// say writes a line to shim.log, which is the last place there is: when that
// fails too nobody can be told.
func say(message string) {
	b := time.Unix(0, wallclock()).UTC().AppendFormat(nil, time.RFC3339Nano)
	b = append(append(b, " boxlite-shim: "...), message...)
	write(wire.FDStderr, append(b, '\n'))
}

// fatal ends the shim, and the box with it, over an error that only a mistake
// of the shim itself can bring about.
func fatal(what string, err error) {
	say(what + ": " + err.Error())
	syscall.Exit(failedCode)
}

func write(fd int, b []byte) {
	for len(b) > 0 {
		n, err := sys.Retry(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return
		}
		b = b[n:]
	}
}
