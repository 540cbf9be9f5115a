package runtime

import (
	"fmt"
	"maps"
	"slices"
)

// ExecMode is the mode of an exec's directory whose maker asks for none.
const ExecMode = 0o700

// execInputs are the files of an exec that decide what its command does.
var execInputs = []string{"cmd", "stdin", "ctl"}

// execRights are the rights of a command that is given to an exec. There are two ranks:
// root, and everybody else, who gets no more than the box's own command has.
type execRights struct {
	limited bool
	// because says whose rights they are if not those of who has opened cmd.
	because string
}

// rights returns the rights of a command that uid has opened cmd for: those of the
// weakest of who opened it, who made the exec, and whom it or a file of it was given to.
// Somebody else's exec may look like root's own: it has the name that root has asked for.
func (s *ExecSnapshot) rights(uid uint32) execRights {
	if uid != 0 {
		return execRights{limited: true}
	}
	limited := func(format string, a ...any) execRights {
		return execRights{true, fmt.Sprintf(format, a...) + ", and its command gets no more than others may have: "}
	}
	if s.owner.UID != 0 {
		return limited("uid %d has made this exec", s.owner.UID)
	}
	for _, name := range slices.Sorted(maps.Keys(s.owners)) {
		o, what := s.owners[name], name
		if name == "" {
			what = "this exec"
		}
		switch {
		case o.UID != 0:
			return limited("%s belongs to uid %d", what, o.UID)
		case o.Mode&0o022 != 0 && slices.Contains(execInputs, name):
			return limited("others than root may write %s", what)
		}
	}
	return execRights{}
}

// refuse says that the rights do not reach for something.
func (r execRights) refuse(why string) error {
	return fmt.Errorf("%w: %s%s", ErrDenied, r.because, why)
}

// mayRemove says why uid may not remove the exec, if that is so. It is as in a directory
// with the sticky bit: who may write exec/ may not for that remove what others have in it,
// and make something of his own under the name that they go on to use.
func (s *ExecSnapshot) mayRemove(uid uint32) error {
	owner := s.Owner("", ExecMode).UID
	if uid == 0 || uid == owner {
		return nil
	}
	return fmt.Errorf("%w: it belongs to uid %d, and nobody else but root removes it", ErrDenied, owner)
}
