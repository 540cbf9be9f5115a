//go:build linux && (amd64 || arm64)

package client

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// Home returns what the directory is that the shim with that pid keeps its box in. The
// shim has it open all its life, wherever that is moved. ENOENT says that there is no such
// process, or that it has ended.
func Home(pid int) (dir unix.Stat_t, err error) {
	err = unix.Stat("/proc/"+strconv.Itoa(pid)+"/fd/"+strconv.Itoa(wire.FDDir), &dir)
	return dir, err
}
