package reaper

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Survivor is a process that was killed and has not ended, or that has ended and
// is not let go.
type Survivor struct {
	PID int
	// Name is its command's name, as in /proc/PID/comm.
	Name string
	// State is as State gives it.
	State string
	// Tracer is the pid of the process that traces it, or 0.
	Tracer int
}

// FindSurvivor looks for what keeps a killed process from ending. The init of a
// pid namespace waits for every process of it: then it is one of those, found among
// its descendants. Without any it is the process itself.
func FindSurvivor(pid int) Survivor {
	self := survivor(pid)
	if self.stuck() {
		return self // it does not even get to wait for others
	}
	best, rank := self, 0
	var walk func(parent int)
	walk = func(parent int) {
		for _, child := range children(parent) {
			if rank == len(ranks) {
				return
			}
			s := survivor(child)
			for i, is := range ranks {
				if is(s) && i+1 > rank {
					best, rank = s, i+1
				}
			}
			walk(child)
		}
	}
	walk(pid)
	return best
}

// ranks are the kinds of survivors, the one that tells most last.
var ranks = [...]func(Survivor) bool{
	func(s Survivor) bool { return s.State != "Z" && s.State != "X" },
	func(s Survivor) bool { return s.State == "Z" && s.Tracer != 0 },
	Survivor.stuck,
}

// stuck reports whether a process is in a state in which SIGKILL does not reach it.
func (s Survivor) stuck() bool { return strings.ContainsAny(s.State, "DTt") }

// survivor describes a process; one that is gone is in state X.
func survivor(pid int) Survivor {
	s := Survivor{PID: pid, Name: comm(pid), State: State(pid)}
	var buf [512]byte
	status, err := read(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/status", buf[:])
	if err != nil {
		return s
	}
	for line := range strings.Lines(string(status)) {
		if tracer, ok := strings.CutPrefix(line, "TracerPid:"); ok {
			s.Tracer, _ = strconv.Atoi(strings.TrimSpace(tracer)) // the kernel's own number
		}
	}
	return s
}

// children returns the pids of the children of all threads of a process. While some
// are being reaped, others may be missing.
func children(pid int) []int {
	var out []int
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return nil // it is gone, and its children are another's
	}
	for _, task := range tasks {
		text, err := os.ReadFile(dir + task.Name() + "/children")
		if err != nil {
			continue // a thread that has ended; its children are another's now
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}
