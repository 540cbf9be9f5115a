package runtime

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/status"
)

func TestACommandHasTheRightsOfTheWeakest(t *testing.T) {
	for name, c := range map[string]struct {
		opener, maker uint32
		owners        map[string]status.Owner
		limited       bool
		because       string
	}{
		"root's own":                     {},
		"root's own, with a mode":        {owners: map[string]status.Owner{"": {Mode: 0o750}, "stdout": {Mode: 0o666}}},
		"another's":                      {opener: 7, maker: 7, limited: true},
		"another in root's":              {opener: 7, limited: true},
		"root in another's":              {maker: 7, limited: true, because: "uid 7 has made this exec"},
		"root in what was taken back":    {maker: 7, owners: map[string]status.Owner{"": {Mode: 0o700}, "cmd": {Mode: 0o600}}, limited: true, because: "uid 7 has made this exec"},
		"root in what was given away":    {owners: map[string]status.Owner{"": {UID: 7, Mode: 0o700}}, limited: true, because: "this exec belongs to uid 7"},
		"root, and another has stdin":    {owners: map[string]status.Owner{"stdin": {UID: 7, Mode: 0o200}}, limited: true, because: "stdin belongs to uid 7"},
		"root, and another has stdout":   {owners: map[string]status.Owner{"stdout": {UID: 7, Mode: 0o400}}, limited: true, because: "stdout belongs to uid 7"},
		"root, and a group writes stdin": {owners: map[string]status.Owner{"stdin": {GID: 7, Mode: 0o220}}, limited: true, because: "others than root may write stdin"},
		"root, and all write cmd":        {owners: map[string]status.Owner{"cmd": {Mode: 0o602}}, limited: true, because: "others than root may write cmd"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &ExecSnapshot{owner: status.Owner{UID: c.maker}, owners: c.owners}
			r := s.rights(c.opener)
			if r.limited != c.limited || !strings.HasPrefix(r.because, c.because) || (c.because == "") != (r.because == "") {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestWhoFillsUpTheExecsLeavesRoomForRoot(t *testing.T) {
	b, _ := execBox(t)
	fill := func(uid uint32) (n int) {
		t.Helper()
		for n = 0; ; n++ {
			_, err := b.CreateExec(fmt.Sprintf("of%d-%d", uid, n), status.Owner{UID: uid})
			if errors.Is(err, ErrExecs) {
				return n
			}
			must(t, err)
		}
	}
	if n := fill(7); n != MaxExecs-rootExecs-1 {
		t.Errorf("another has %d beside the one that there was", n)
	}
	if n := fill(0); n != rootExecs {
		t.Errorf("root has %d", n)
	}
	b.rt.work.Wait() // what was refused is written down
}

func TestAnExecIsRemovedByRootAndItsOwner(t *testing.T) {
	b, e := execBox(t)
	if err := b.RemoveExec("e1", 2); !errors.Is(err, ErrDenied) {
		t.Errorf("another: %v", err)
	}
	// Who waits for its output is not told that there will be none.
	if e.refused.Load() {
		t.Error("its command counts as refused")
	}
	must(t, e.SetOwner("", status.Owner{UID: 2, Mode: ExecMode}))
	if err := b.RemoveExec("e1", 1); !errors.Is(err, ErrDenied) {
		t.Errorf("who has made it, when it was another's: %v", err)
	}
	must(t, b.RemoveExec("e1", 2))
}
