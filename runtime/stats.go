package runtime

import "github.com/boxlitefs/boxlite/runtime/cgroup"

// Stats tells what the cgroup of the run counts. It asks no one, so a box can't
// hold it up.
func (b *Box) Stats() (cgroup.Stats, error) {
	s := b.Snapshot()
	last := cgroup.Stats{CPU: s.CPU, OOMKills: s.OOMKills}
	if s.PID <= 0 {
		return last, nil
	}
	st, complete, err := s.run.cgroup().Stats()
	if cgroup.Gone(err) {
		return last, nil // it has just ended
	}
	if err == nil && !complete {
		st, err = cgroup.Walk(s.PID, st)
	}
	if err != nil {
		return st, b.fail("stats", err)
	}
	return st, nil
}
