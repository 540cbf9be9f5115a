package runtime

import (
	"time"

	"github.com/boxlitefs/boxlite/runtime/epoll"
)

// moment is a point in time by the clock that counts from the boot of the machine on, also
// while that is suspended, and that nobody sets (CLOCK_BOOTTIME), in nanoseconds. What a
// person says of how long something is to last is measured by it, across daemons too; the
// time of day is only shown. 0 is none.
type moment int64

func bootTime() moment { return moment(max(epoll.SinceBoot(), 1)) }

func (m moment) add(d time.Duration) moment       { return m + moment(d) }
func (m moment) sub(from moment) time.Duration    { return time.Duration(m - from) }
func (m moment) elapsed() time.Duration           { return bootTime().sub(m) }
func momentOf(t time.Time) moment                 { return bootTime().add(time.Until(t)) }
func (m moment) time() time.Time                  { return time.Now().Add(-m.elapsed()) }
func (m moment) within(least, most moment) moment { return min(max(m, least), most) }

// recall returns a moment that a record has. One of another boot is only known by the time
// of day that was noted with it: it was so long ago as that says, which may be wrong, but at
// most a moment ago when it says that it is still to come.
func recall(m moment, thisBoot bool, at time.Time) moment {
	now := bootTime()
	if thisBoot && m != 0 {
		return m
	}
	return now.add(-max(time.Since(at), 0))
}

// recallDue is recall for what is to come, in not more than most.
func recallDue(m moment, thisBoot bool, at time.Time, most time.Duration) moment {
	now := bootTime()
	if !thisBoot || m == 0 {
		m = momentOf(at)
	}
	return m.within(now, now.add(most))
}
