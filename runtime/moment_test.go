package runtime

import (
	"testing"
	"time"
)

// A moment of a record counts by the clock that nobody sets, and only where there is none
// of this boot by the time of day.
func TestMomentsOfARecord(t *testing.T) {
	const most = 30 * time.Second
	now, today := bootTime(), time.Now()
	for name, c := range map[string]struct {
		ago      time.Duration // by the clock of the boot
		thisBoot bool
		at       time.Duration // by the time of day, from now on
		past     time.Duration // what recall makes of it, ago
		due      time.Duration // what recallDue makes of it, from now on
	}{
		"the clock was right":                    {time.Minute, true, -time.Minute, time.Minute, 0},
		"it was set back by an hour":             {time.Minute, true, time.Hour, time.Minute, 0},
		"it was set forward by an hour":          {time.Minute, true, -time.Hour, time.Minute, 0},
		"to come":                                {-5 * time.Second, true, 5 * time.Second, -5 * time.Second, 5 * time.Second},
		"to come, and it was set back":           {-5 * time.Second, true, time.Hour, -5 * time.Second, 5 * time.Second},
		"to come, and it was set forward":        {-5 * time.Second, true, -time.Hour, -5 * time.Second, 5 * time.Second},
		"of another boot":                        {time.Minute, false, -time.Hour, time.Hour, 0},
		"of another boot, and in the future":     {time.Minute, false, time.Hour, 0, most},
		"of another boot, soon":                  {time.Minute, false, 4 * time.Second, 0, 4 * time.Second},
		"of this boot, by an older daemon":       {0, true, -time.Hour, time.Hour, 0},
		"of this boot, to come, by an older one": {0, true, time.Hour, 0, most},
	} {
		var m moment
		if c.ago != 0 {
			m = now.add(-c.ago)
		}
		near := func(what string, got moment, want time.Duration) {
			if off := got.sub(now) - want; off < -time.Second || off > time.Second {
				t.Errorf("%s: %s is %s from now, not %s", name, what, got.sub(now), want)
			}
		}
		near("the past", recall(m, c.thisBoot, today.Add(c.at).Round(0)), -c.past)
		near("what is due", recallDue(m, c.thisBoot, today.Add(c.at).Round(0), most), c.due)
	}
}

func TestMomentsAreTimesAndBack(t *testing.T) {
	at := time.Now().Add(time.Hour)
	if off := momentOf(at).time().Sub(at); off < -time.Second || off > time.Second {
		t.Errorf("off by %s", off)
	}
}
