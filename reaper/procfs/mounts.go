package procfs

import (
	"iter"
	"strconv"
	"strings"
)

// Mount is one mount that a process sees.
type Mount struct {
	// ID is its number, which another may get when it is gone.
	ID uint64
	// Device is major:minor of its file system.
	Device string
	// Point is where it is mounted, as the process names it.
	Point string
	// Type is that of its file system, as ext4 or fuse.boxlite.
	Type string
}

// Mounts reads /proc/PID/mountinfo, which has the mounts in the order in which they were
// made: of those at one place the last is uppermost. No more than limit bytes of it are
// read, unless that is negative; a mount that is listed after that is not found.
func (p Process) Mounts(limit int64) (iter.Seq[Mount], error) {
	text, err := p.readAll("mountinfo", limit)
	if err != nil {
		return nil, err
	}
	return parseMounts(text), nil
}

// parseMounts leaves out what is no whole line, or none of mountinfo.
func parseMounts(text string) iter.Seq[Mount] {
	return func(yield func(Mount) bool) {
		for line := range strings.Lines(text) {
			if m, ok := parseMount(line); ok && !yield(m) {
				return
			}
		}
	}
}

func parseMount(line string) (m Mount, ok bool) {
	line, whole := strings.CutSuffix(line, "\n")
	front, back, ok := strings.Cut(line, " - ")
	if !ok || !whole {
		return m, false
	}
	var f [5]string // number, that of the parent, device, root, mount point
	for i := range f {
		f[i], front, _ = strings.Cut(front, " ")
	}
	id, err := strconv.ParseUint(f[0], 10, 64)
	m = Mount{ID: id, Device: f[2], Point: unescape(f[4])}
	m.Type, _, _ = strings.Cut(back, " ")
	return m, err == nil && f[4] != "" && m.Type != ""
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
