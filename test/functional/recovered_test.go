package functional

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/test/daemon"
)

// What a box's directory may have when a daemon begins, by the name of the case; "" is
// no such file.
var (
	recoveredConfigs = map[string]string{
		"no config":     "",
		"broken config": "command: [\n",
		"plain":         "command: [\"true\"]\n",
		"all keys":      "command: [\"true\"]\nrestart: {policy: always}\nexpire: {after: 1h, idle: 1h}\nremove_on_exit: true\nhealth_check: {on_unhealthy: restart}\n",
	}
	recoveredStates = map[string]string{
		"no state":     "",
		"broken state": "{",
		"empty":        stateJSON("empty", ""),
		"configured":   stateJSON("configured", ""),
		"stopped":      stateJSON("stopped", `"last_run":"R","last_number":1`),
		"failed":       stateJSON("failed", `"last_run":"R","last_number":1,"health":"unhealthy","health_run":"R"`),
		"in a backoff": stateJSON("stopped", `"last_run":"R","last_number":1,"retries":3,"restart_at":"2100-01-01T00:00:00Z"`),
		"backoff over": stateJSON("stopped", `"last_run":"R","last_number":1,"restart_at":"2001-01-01T00:00:00Z"`),
		"to restart":   stateJSON("failed", `"last_run":"R","last_number":1,"again":"R"`),
		"to stop":      stateJSON("stopped", `"last_run":"Q","last_number":0,"asked":"R","active":"2001-01-01T00:00:00Z"`),
		"to be gone":   stateJSON("stopped", `"last_run":"R","last_number":1,"remove":true`),
	}
	recoveredRuns = map[string]string{
		"no run":         "",
		"broken run":     `{"version":1`,
		"dead":           `{"version":1,"run":"R","number":1,"identity":{"boot_id":"BOOT","pid":4194304,"start_ticks":1},"started":"2001-01-01T00:00:00Z","config":"command: [\"true\"]\n"}`,
		"of an odd kind": `{"version":1,"run":"R","number":7,"identity":{"boot_id":"other","pid":2,"start_ticks":1},"started":"2001-01-01T00:00:00Z","config":"comand: 1\n"}`,
	}
)

func stateJSON(status, more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"version":1,"created":"2001-01-01T00:00:00Z","runs":1,"status":"` + status + `","exit_code":3,"last_error":"ok"` + more + `}`
}

// TestEveryCommandInEveryRecoveredState gives each command to a box in each state that a
// daemon can find one in. None may panic or hang, and the box has to be of use afterwards.
func TestEveryCommandInEveryRecoveredState(t *testing.T) {
	c := newCore(t)
	boot, err := reaper.BootID()
	if err != nil {
		t.Fatal(err)
	}
	type made struct{ name, what, first string }
	var all []made
	// Each state of the records with each configuration and each command; what is known of
	// the run takes turns.
	runs := slices.Sorted(maps.Keys(recoveredRuns))
	for i, state := range slices.Sorted(maps.Keys(recoveredStates)) {
		for j, config := range slices.Sorted(maps.Keys(recoveredConfigs)) {
			for k, first := range []string{"start", "stop", "kill", "restart 10ms", "configure", "remove"} {
				run := runs[(i+j+k)%len(runs)]
				m := made{"b" + strconv.Itoa(len(all)), state + ", " + config + ", " + run, first}
				all = append(all, m)
				for name, text := range map[string]string{
					"state.json": recoveredStates[state], "config.yaml": recoveredConfigs[config], "shim.json": strings.ReplaceAll(recoveredRuns[run], "BOOT", boot),
					// An exec that had begun, and one that is broken.
					"exec/e/exec.json": `{"version":1,"created":"2001-01-01T00:00:00Z","run":"R","boot":"` + boot + `","cmd":"true"}`,
					"exec/f/exec.json": "{",
				} {
					if text == "" {
						continue
					}
					path := filepath.Join(c.h.State, "boxes", m.name, name)
					if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	c.open()
	var workers sync.WaitGroup
	queue := make(chan made)
	for range 8 {
		workers.Go(func() {
			for m := range queue {
				r := &recovered{c, m.name, ""}
				done := make(chan error, 1)
				go func() { done <- r.live(m.first) }()
				select {
				case err := <-done:
					if err != nil {
						t.Errorf("%s, then %s: %s: %v", m.what, m.first, r.step, err)
					}
				case <-time.After(daemon.Bound):
					t.Errorf("%s, then %s: %s hangs", m.what, m.first, r.step)
				}
			}
		})
	}
	for _, m := range all {
		queue <- m
	}
	close(queue)
	workers.Wait()
}

// recovered is a box that was found.
type recovered struct {
	*core
	name, step string
}

// live asks everything of the box, gives it a first command, and has it live a whole life
// then.
func (r *recovered) live(first string) error {
	b, err := r.box(r.name)
	if err != nil {
		return nil //nolint:nilerr // it was to be removed, and is
	}
	r.step = "a look"
	for _, file := range []string{"info.json", "events", "log"} {
		r.read(r.name, file)
	}
	if _, err := b.Stats(); err != nil {
		return err
	}
	for _, open := range []func() runtime.Stream{b.WaitRunning, b.WaitHealthy, b.WaitExit, b.WaitStopped, b.WaitEvent, func() runtime.Stream { return logOf(r.t, b) }} {
		s := open()
		if _, _, err := s.Poll(make([]byte, 64)); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, runtime.ErrCanceled) && !errors.Is(err, runtime.ErrRemoved) {
			return err
		}
		s.Close()
	}
	for _, line := range []string{"pause", "resume", "signal TERM"} {
		if err := r.command(line); err != nil {
			return err
		}
	}
	r.step = "execs"
	if e := b.Exec("e"); e != nil {
		for _, verb := range []runtime.Verb{runtime.VerbSignal, runtime.VerbCloseStdin, runtime.VerbKill} {
			if work, err := e.Do(runtime.By{}, runtime.Command{Verb: verb, Signal: 15}); err == nil {
				_ = work.Wait(context.Background()) // what comes of it does not matter
			}
		}
		_, _ = e.Run(runtime.By{}, []byte("true"))
	}
	if e, err := b.CreateExec("g", status.Owner{}); err == nil {
		_, _ = e.Run(runtime.By{}, []byte("true"))
	}
	for _, name := range []string{"e", "f", "g"} {
		_ = b.RemoveExec(name, 0)
	}
	r.step = first
	switch first {
	case "configure":
		if k := r.configure(r.name, sleeper); k != fine && k != gone && k != absent {
			return fmt.Errorf("%s", k)
		}
	case "remove":
		if k := r.remove(r.name); k != fine && k != gone && k != absent && k != busy {
			return fmt.Errorf("%s", k)
		}
	default:
		if err := r.command(first); err != nil {
			return err
		}
	}
	// A life, in a box that may have been removed, or remove itself.
	for _, step := range []string{"kill", "configure", "start", "status", "kill", "remove"} {
		r.step = "then " + step
		var k kind
		switch step {
		case "configure":
			if k = r.configure(r.name, sleeper); k == gone || k == absent {
				return r.forgotten()
			}
		case "status":
			if got, _ := r.read(r.name, "status"); got != "running" {
				return fmt.Errorf("%s", got)
			}
		case "remove":
			k = r.remove(r.name)
		default:
			if err := r.command(step); err != nil {
				return err
			}
		}
		if k != "" && k != fine {
			said, _ := r.read(r.name, "last_error")
			return fmt.Errorf("%s: %s", k, said)
		}
	}
	return nil
}

// forgotten waits until a box that was removed has its name no more: that is when its end has
// been told.
func (r *recovered) forgotten() error {
	for end := time.Now().Add(daemon.Bound); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := r.box(r.name); err != nil {
			return nil //nolint:nilerr // as it should be
		}
	}
	return errors.New("a box that is gone has its name still")
}

// command gives a command; what it is refused with must be a word of the contract.
func (r *recovered) command(line string) error {
	r.step = line
	if _, err := r.box(r.name); err != nil {
		return nil //nolint:nilerr // it has removed itself
	}
	k, end := r.begin(r.name, line)
	if k == fine {
		k = <-end
	}
	switch k {
	case fine, busy, unconfigured, noProcess, canceled, gone, absent:
		return nil
	}
	return fmt.Errorf("%s: %s", line, k)
}
