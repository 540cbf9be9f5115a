package functional

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/test/daemon"
)

// errNoBox stands for the nil that the core gives for a name without a box.
var errNoBox = errors.New("no such box")

// sentinels tell the kind of an error of the core. The order counts where one
// wraps another.
var sentinels = []struct {
	err  error
	kind kind
}{
	{runtime.ErrStart, startFailed},
	{runtime.ErrTimedOut, timedOut},
	{runtime.ErrCanceled, canceled},
	{config.ErrTooBig, tooBig},
	{runtime.ErrName, invalid},
	{runtime.ErrInvalid, invalid},
	{runtime.ErrExist, exists},
	{errNoBox, absent},
	{runtime.ErrRemoved, gone},
	{runtime.ErrBusy, busy},
	{runtime.ErrNotConfigured, unconfigured},
	{runtime.ErrNoProcess, noProcess},
	{context.Canceled, interrupted},
}

func kindOf(err error) kind {
	if err == nil {
		return fine
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.kind
		}
	}
	if errors.As(err, new(*config.Error)) {
		return invalid
	}
	return kind(err.Error())
}

// core runs the suite against package runtime.
type core struct {
	t   *testing.T
	h   *daemon.Home
	log *logrus.Entry

	mu sync.Mutex
	rt *runtime.Runtime // nil while shut
}

func newCore(t *testing.T) *core {
	h := daemon.New(t)
	c := &core{t: t, h: h}
	var said bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&said)
	logger.SetLevel(logrus.DebugLevel)
	c.log = logrus.NewEntry(logger)
	t.Cleanup(func() {
		c.shut()
		if t.Failed() {
			t.Logf("the core said:\n%s", said.String())
		}
	})
	return c
}

func (c *core) home() *daemon.Home { return c.h }

func (c *core) open() {
	c.t.Helper()
	var rt *runtime.Runtime
	daemon.Await(c.t, "the state directory", func() bool {
		var err error
		rt, err = runtime.Open(runtime.Options{State: c.h.State, CgroupParent: "/boxlite", Mask: []string{c.h.Mount}, Shim: c.h.Shim, Log: c.log})
		// The lock of a runtime that was closed in this process is also held by
		// the children that other tests are forking, until they exec.
		if err != nil && !errors.As(err, new(*runtime.LockedError)) {
			c.t.Fatal(err)
		}
		return err == nil
	})
	rt.Autostart()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rt = rt
}

func (c *core) shut() {
	c.t.Helper()
	c.mu.Lock()
	rt := c.rt
	c.rt = nil
	c.mu.Unlock()
	if rt == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), daemon.StopBound)
	defer cancel()
	if err := rt.Close(ctx); err != nil {
		c.t.Errorf("close: %v", err)
	}
}

// crash is as near to a crash as a core in the process of the tests can get.
func (c *core) crash() { c.shut() }

func (c *core) box(name string) (*runtime.Box, error) {
	if b := c.rt.Box(name); b != nil {
		return b, nil
	}
	return nil, errNoBox
}

func (c *core) create(name string) kind {
	_, err := c.rt.Create(name)
	if err != nil {
		c.rt.Refuse(err) // as the facade does
	}
	return kindOf(err)
}

func (c *core) remove(name string) kind {
	b, err := c.box(name)
	if err == nil {
		err = b.Remove()
	}
	return kindOf(err)
}

func (c *core) names() []string {
	var out []string
	for _, b := range c.rt.Boxes() {
		out = append(out, b.Name())
	}
	return out
}

func (c *core) configure(name, text string) kind {
	b, err := c.box(name)
	if err == nil {
		err = b.Configure([]byte(text))
	}
	return kindOf(err)
}

// parse makes a Command of a line, without the checks that are the facade's.
func parse(line string) (runtime.Command, error) {
	words := strings.Fields(line)
	cmd := runtime.Command{Verb: runtime.Verb(words[0])}
	if len(words) == 1 {
		return cmd, nil
	}
	var err error
	if cmd.Verb == runtime.VerbSignal {
		cmd.Signal, err = config.ParseSignal(words[1])
		return cmd, err
	}
	grace, err := time.ParseDuration(words[1])
	cmd.Grace = &grace
	return cmd, err
}

func (c *core) begin(name, line string) (kind, <-chan kind) {
	b, err := c.box(name)
	if err != nil {
		return kindOf(err), nil
	}
	cmd, err := parse(line)
	if err != nil {
		c.t.Fatalf("%q: %v", line, err)
	}
	work, err := b.Do(runtime.By{}, cmd)
	if err != nil {
		return kindOf(err), nil
	}
	end := make(chan kind, 1)
	go func() { end <- kindOf(work.Wait(context.Background())) }()
	return fine, end
}

func (c *core) read(name, file string) (string, kind) {
	b, err := c.box(name)
	if err != nil {
		return "", kindOf(err)
	}
	s := b.Snapshot()
	switch file {
	case "status":
		return string(s.Status), fine
	case "health":
		return string(s.Health), fine
	case "pid":
		return strconv.Itoa(s.PID), fine
	case "exit_code":
		return strconv.Itoa(s.ExitCode), fine
	case "last_error":
		return s.LastError, fine
	case "config.yaml":
		return strings.TrimSuffix(string(s.Text), "\n"), fine
	case "info.json":
		text, err := json.Marshal(b.Info(s))
		return string(text), kindOf(err)
	case "events":
		var text []byte
		for _, e := range b.Events() {
			text = e.AppendText(text)
		}
		return strings.TrimSuffix(string(text), "\n"), fine
	case "log":
		text, err := io.ReadAll(io.NewSectionReader(b.OpenLog(), 0, 1<<40))
		return strings.TrimSuffix(string(text), "\n"), kindOf(err)
	}
	c.t.Fatalf("no file %s", file)
	return "", ""
}

type coreWaiter struct{ stream runtime.Stream }

func (w coreWaiter) result(ctx context.Context) (string, kind) {
	defer w.stream.Close()
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, more, err := w.stream.Poll(buf)
		text = append(text, buf[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			return strings.TrimSuffix(string(text), "\n"), fine
		case err != nil:
			return string(text), kindOf(err)
		case more == nil:
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return string(text), interrupted
		}
	}
}

func (c *core) watch(name, file string) (waiter, kind) {
	b, err := c.box(name)
	if err != nil {
		return nil, kindOf(err)
	}
	open, ok := map[string]func() runtime.Stream{
		"running": b.WaitRunning, "healthy": b.WaitHealthy, "exit": b.WaitExit, "stopped": b.WaitStopped, "event": b.WaitEvent,
		"log": func() runtime.Stream { return logOf(c.t, b) },
	}[file]
	if !ok {
		c.t.Fatalf("no file wait/%s", file)
	}
	return coreWaiter{open()}, fine
}

// logOf is the log for root, who is never refused it.
func logOf(t *testing.T, b *runtime.Box) runtime.Stream {
	s, err := b.WaitLog(runtime.By{})
	if err != nil {
		t.Errorf("wait/log: %v", err)
	}
	return s
}

func (c *core) chown(name, file string, uid, gid, mode uint32) kind {
	b, err := c.box(name)
	if err == nil {
		err = b.SetOwner(file, status.Owner{UID: uid, GID: gid, Mode: mode})
	}
	return kindOf(err)
}

func (c *core) touch(name string) kind {
	b, err := c.box(name)
	if err == nil {
		err = b.Touch()
	}
	return kindOf(err)
}

func (c *core) lastError() string {
	text, _ := c.rt.LastError()
	return text
}
