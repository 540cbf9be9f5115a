package runtime

import (
	"errors"
	"os"
	"syscall"
)

// learnFilter keeps the seccomp filter of a run that has just begun, if it was not
// known. Without it the next start takes as long as this one.
func (b *Box) learnFilter(r *run) {
	if r.filter == nil {
		return
	}
	err := b.rt.filters.Learn(*r.filter, r.proc, b.name)
	// The command may have ended already, or the runtime keep no such file.
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		b.log("start").WithError(err).Warn("the compiled seccomp profile is not kept")
	}
}
