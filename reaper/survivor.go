package reaper

import (
	"strconv"
	"strings"

	"github.com/boxlitefs/boxlite/reaper/procfs"
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
	status, err := procfs.Of(pid).Status()
	if err == nil {
		s.Tracer, _ = strconv.Atoi(status.Field("TracerPid")) // the kernel's own number
	}
	return s
}

// children returns the pids of the children of a process, those that can be known.
func children(pid int) []int {
	pids, _ := procfs.Of(pid).Children() // if it is gone they are another's
	return pids
}
