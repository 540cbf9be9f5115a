package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// counts returns what the group counts, but for OOM kills. Where a controller is
// missing its figure is 0, and complete is false.
//
// The library's readers take three times as long: a scrape of a thousand boxes reads
// three thousand files.
func (g *group) counts() (st Stats, complete bool, err error) {
	if !g.made() {
		return st, false, nil
	}
	cpu, memory, pids := g.Dirs["cpuacct"], g.Dirs["memory"], g.Dirs["pids"]
	var cpuErr, memErr, pidsErr error
	switch {
	case cpu == "":
	case g.V2:
		st.CPU, cpuErr = readCount(cpu, "/cpu.stat", "usage_usec ", time.Microsecond)
	default:
		st.CPU, cpuErr = readCount(cpu, "/cpuacct.usage", "", time.Nanosecond)
	}
	switch {
	case memory == "":
	case g.V2:
		st.Memory, memErr = readCount[int64](memory, "/memory.current", "", 1)
	default:
		st.Memory, memErr = readCount[int64](memory, "/memory.usage_in_bytes", "", 1)
	}
	if pids != "" {
		st.Pids, pidsErr = readCount(pids, "/pids.current", "", 1)
	}
	return st, cpu != "" && memory != "" && pids != "", errors.Join(cpuErr, memErr, pidsErr)
}

// readCount reads a number in the first lines of a file of a cgroup: the whole of the
// first line, or what follows key in its line.
func readCount[T ~int | ~int64](dir, file, key string, unit T) (T, error) {
	path := dir + file
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var buf [256]byte
	n, err := unix.Read(fd, buf[:])
	_ = unix.Close(fd) // nothing was written
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	for line := range strings.Lines(string(buf[:n])) {
		if word, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), key); ok {
			v, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			return T(v) * unit, nil
		}
	}
	return 0, fmt.Errorf("%s: no %q in it", path, key)
}
