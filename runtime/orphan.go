package runtime

import (
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/event"
)

// sweptTold is how many orphans that were reaped at a time have an event and a line
// in the log each: more would push what happened to boxes out of the history.
const sweptTold = 16

// sweptOrphans says which zombies the net has reaped.
func (rt *Runtime) sweptOrphans(all []reaper.Swept) {
	rt.metrics.sweptSome(len(all))
	for _, s := range all[:min(len(all), sweptTold)] {
		rt.log.WithFields(logrus.Fields{"op": "reap", "pid": s.PID, "command": s.Name, "exit_code": s.Code}).Info("reaped an orphan that nobody waits for")
		rt.record(nil, event.Event{Name: "reaped", Detail: fmt.Sprintf("pid=%d outcome=swept exit_code=%d", s.PID, s.Code)}, false)
	}
	if more := len(all) - sweptTold; more > 0 {
		rt.log.WithFields(logrus.Fields{"op": "reap", "count": more}).Info("reaped more orphans that nobody waits for")
		rt.record(nil, event.Event{Name: "reaped", Detail: fmt.Sprintf("outcome=swept count=%d", more)}, false)
	}
	rt.announce()
}

func (rt *Runtime) closeNet() {
	if rt.net != nil {
		rt.net.Close()
	}
}
