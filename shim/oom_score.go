//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
)

// oomScoreFile is what a process tells the OOM killer of itself.
const oomScoreFile = "/proc/self/oom_score_adj"

const (
	leastOOMScore = -1000 // never
	mostOOMScore  = 1000
	// boxOOMScore is how far a box is ranked behind a shim that cannot be shielded.
	boxOOMScore = 100
)

// shield keeps the OOM killer from the shim, as far as it may: a box of which the
// supervisor was taken is lost with all it had.
func (s *supervisor) shield() {
	fd, err := sys.Retry(func() (int, error) { return unix.Open(oomScoreFile, unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err != nil {
		say("cannot open " + oomScoreFile + ": " + err.Error())
		return
	}
	defer sys.Close(fd)
	var buf [16]byte
	n, err := unix.Read(fd, buf[:])
	if err == nil {
		s.oomScore, err = strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	}
	if err != nil {
		say("cannot read " + oomScoreFile + ": " + err.Error())
		return
	}
	s.ranked = true
	if _, err := unix.Write(fd, []byte(strconv.Itoa(leastOOMScore))); err == nil {
		s.oomScore = leastOOMScore
	} else if !errors.Is(err, unix.EACCES) {
		// Without CAP_SYS_RESOURCE the score can only be raised: the daemon has said
		// so, once for all shims.
		say("cannot write " + oomScoreFile + ": " + err.Error())
	}
}

// rankCommand makes of the shim's score that of the command: as the spec says, and in any
// case behind the shim.
func (s *supervisor) rankCommand() {
	score := s.spec.OOMScore
	if s.oomScore != leastOOMScore {
		score = min(max(score, s.oomScore+boxOOMScore), mostOOMScore)
	}
	s.oomScore = score
}

// unshield ranks the child behind the shim for the OOM killer.
func (s *supervisor) unshield(c *child) (err error) {
	if s.ranked {
		c.oomScore = []byte(strconv.Itoa(s.oomScore))
		c.oomFile, err = syscall.BytePtrFromString(oomScoreFile)
	}
	return err
}
