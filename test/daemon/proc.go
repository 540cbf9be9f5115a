package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// gone reports whether a read of /proc failed because the process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// Comm returns the name of a process, "" if there is none.
func Comm(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// State returns the one-letter state of a process as in proc(5), "" if there is
// none.
func State(pid int) string { return field(pid, "State:") }

// Alive reports whether a process exists and has not ended.
func Alive(pid int) bool {
	s := State(pid)
	return s != "" && s != "Z" && s != "X"
}

// Frozen reports whether the cgroup of a process is frozen.
func Frozen(t testing.TB, pid int) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	file, frozen := "", ""
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case parts[1] == "freezer":
			file, frozen = "/sys/fs/cgroup/freezer"+parts[2]+"/freezer.state", "FROZEN"
		case parts[0] == "0" && file == "":
			file, frozen = "/sys/fs/cgroup"+parts[2]+"/cgroup.events", "frozen 1"
		}
	}
	state, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(state), frozen)
}

// field returns the first word of a line of /proc/PID/status.
func field(pid int, key string) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				return words[0]
			}
		}
	}
	return ""
}

// InNamespace returns the pids of all processes, zombies too, that are in the pid
// namespace of that name.
func InNamespace(name string) []int {
	var out []int
	for _, pid := range pids() {
		if got, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/pid"); err == nil && got == name {
			out = append(out, pid)
		}
	}
	return out
}

// Namespace returns the name of the pid namespace of a process, which is held for
// as long as the test lasts: else the kernel may give the name to the next one.
func Namespace(t testing.TB, pid int) string {
	t.Helper()
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func pids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		panic("/proc: " + err.Error()) // nothing here works without it
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Files returns where the descriptors of a process lead to, as /proc shows it, by the
// names that they have there.
func Files(pid int) (map[string]string, error) {
	links, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, link := range links {
		to, err := os.Readlink(link)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[link] = to
	}
	return out, nil
}

// users returns the processes, but for this one, that hold a file below the state
// directory dir, or the directory of a box in it: its shims, whatever program plays the
// shim. A shim has its box's directory as a root, so that its path tells nothing.
func users(dir string) []int {
	boxes := map[uint64]bool{} // by inode
	found, err := filepath.Glob(dir + "/boxes/*")
	if err != nil {
		panic(err) // the pattern
	}
	for _, box := range found {
		if ino := inode(box); ino != 0 {
			boxes[ino] = true
		}
	}
	var out []int
	for _, pid := range pids() {
		if pid == os.Getpid() {
			continue
		}
		files, err := Files(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		for fd, f := range files {
			if f == "/" && boxes[inode(fd)] {
				out = append(out, pid)
				break
			}
			// The streams of an exec are its command's own.
			if rest, ours := strings.CutPrefix(f, dir+"/"); ours && !strings.Contains(rest, "/exec/") {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}

// inode returns the number of a file, 0 if there is none.
func inode(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// MountPoint is a line of mountinfo.
type MountPoint struct {
	Path, Type, Minor, Options string
}

// Mounts returns the mounts at path and below it, by mountinfo: to look at a path
// could hang.
func Mounts(path string) ([]MountPoint, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []MountPoint
	for line := range strings.Lines(string(text)) {
		front, back, ok := strings.Cut(line, " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if !ok || len(f) < 6 || len(b) < 3 {
			return nil, fmt.Errorf("mountinfo: %q", line)
		}
		if f[4] != path && !strings.HasPrefix(f[4], path+"/") {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		out = append(out, MountPoint{Path: f[4], Type: b[0], Minor: minor, Options: b[2]})
	}
	return out, nil
}

// WithEnv returns the pids of the processes that have NAME=VALUE in the
// environment that they were started with.
func WithEnv(setting string) []int {
	var out []int
	for _, pid := range pids() {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err == nil && strings.Contains("\x00"+string(text), "\x00"+setting+"\x00") {
			out = append(out, pid)
		}
	}
	return out
}

// NamespaceOf returns the name of the pid namespace of a process, "" if it has
// ended. Without the process the name means nothing; see Namespace.
func NamespaceOf(pid int) string {
	name, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		return ""
	}
	return name
}
