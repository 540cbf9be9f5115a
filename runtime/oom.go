package runtime

import (
	"errors"
	"fmt"

	"github.com/boxlitefs/boxlite/runtime/cgroup"
)

// watchOOM makes an event of each time that the OOM killer strikes in the group of
// a run with a memory limit. Without one only the whole machine can run out of
// memory, which the end of the run tells.
func (b *Box) watchOOM(r *run, res cgroup.Limits) error {
	if r.group == nil || res.Memory == 0 {
		return nil
	}
	return b.rt.oom.Add(r.group, func() bool {
		st, _, err := r.group.Used()
		if err != nil {
			return false // the run is over, and its end counts
		}
		return b.oomKilled(r, st.OOMKills)
	})
}

// oomKilled notes how many processes of a run the OOM killer has taken so far, and
// reports whether that was news.
func (b *Box) oomKilled(r *run, kills uint64) bool {
	news := false
	if err := b.update("oom", func(t *tx) error {
		if b.run == r {
			news = t.countOOM(kills)
		}
		return nil
	}); err != nil && !errors.Is(err, ErrRemoved) {
		b.log("oom").WithError(err).Error("OOM kill not told")
	}
	return news
}

func (t *tx) countOOM(kills uint64) bool {
	if kills <= t.OOMKills {
		return false
	}
	t.OOMKills = kills
	t.event("oom", fmt.Sprintf("oom_kills=%d", kills))
	return true
}
