package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func fullSpec() Spec {
	return Spec{
		Box: "web", Run: "r1", Argv: []string{"sh", "-c", "x"}, Env: []string{"PATH=/bin", "A="},
		Workdir: "/srv", UID: 1, GID: 2, Groups: []uint32{3, 4}, Hostname: "h", PrivateNet: true,
		Mounts: []Mount{{"/a", "/b", true}, {"/c", "/d", false}}, Mask: []string{"/m"}, ReadonlyRoot: true,
		Rlimits: []Rlimit{{7, 1024, 2048}, {0, 1, ^uint64(0)}}, NoNewPrivs: true, Capabilities: 5, CapAmbient: 1,
		StopSignal: 15, StopGraceNs: 1e9, LogMax: 1 << 20, OOMScore: 300, DieWithDaemon: true,
		Cgroups: []string{"/sys/fs/cgroup/pids/b/tasks", "/sys/fs/cgroup/memory/b/tasks"}, Freezer: "/sys/fs/cgroup/freezer/b/freezer.state", Thaw: "THAWED",
		Probe: Probe{Kind: ProbeHTTP, Argv: []string{"true"}, Addr: "::1", Port: 80, Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: 1e9},
		Container: &Container{
			Runtime: []string{"/usr/bin/crun", "--debug"}, Config: []byte("{}"), Layers: []string{"/a", "/b"}, Upper: "/c",
			Files: []File{{"hosts", []byte("::1 localhost\n")}}, Owner: 7, FirstID: 1 << 30, IDs: 1 << 16, Init: true, PrivateNet: true, Probe: []byte("{}"), Detach: []string{"/sys/fs/cgroup/unified"},
		},
	}
}

func TestSpecRoundTrip(t *testing.T) {
	want := fullSpec()
	// Every field has to be there, or the trip would prove nothing for it.
	for i, v := 0, reflect.ValueOf(want); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("the test does not set Spec.%s", v.Type().Field(i).Name)
		}
	}
	got, err := DecodeSpec(want.Append(nil))
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestSpecRefused(t *testing.T) {
	good := fullSpec()
	whole := good.Append(nil)
	for n := range whole {
		if _, err := DecodeSpec(whole[:n]); err == nil {
			t.Fatalf("a spec cut to %d of %d bytes was accepted", n, len(whole))
		}
	}
	if _, err := DecodeSpec(append(whole[:len(whole):len(whole)], 0)); err == nil {
		t.Error("a byte too many was accepted")
	}
	for name, spoil := range map[string]func(*Spec){
		"no command":       func(s *Spec) { s.Argv = nil },
		"empty command":    func(s *Spec) { s.Argv = []string{""} },
		"relative dir":     func(s *Spec) { s.Workdir = "srv" },
		"no stop signal":   func(s *Spec) { s.StopSignal = 0 },
		"bad stop signal":  func(s *Spec) { s.StopSignal = 65 },
		"negative grace":   func(s *Spec) { s.StopGraceNs = -1 },
		"no log bound":     func(s *Spec) { s.LogMax = MinLogMax - 1 },
		"no runtime":       func(s *Spec) { s.Container.Runtime = nil },
		"relative runtime": func(s *Spec) { s.Container.Runtime = []string{"crun"} },
		"no root":          func(s *Spec) { s.Container.Layers = nil },
		"layers to write":  func(s *Spec) { s.Container.Upper = "" },
		"no ids":           func(s *Spec) { s.Container.IDs = 0 },
		"NUL":              func(s *Spec) { s.Env = []string{"A=\x00"} },
		"unknown probe":    func(s *Spec) { s.Probe.Kind = ProbeHTTP + 1 },
		"no timeout":       func(s *Spec) { s.Probe.TimeoutNs = 0 },
		"no port":          func(s *Spec) { s.Probe.Port = 0 },
		"a host's name":    func(s *Spec) { s.Probe.Addr = "localhost" },
		"a zone":           func(s *Spec) { s.Probe.Addr = "fe80::1%lo" },
		"no request":       func(s *Spec) { s.Probe.Request = "" },
		"no probe's file":  func(s *Spec) { s.Probe.Kind, s.Probe.Argv = ProbeCommand, []string{""} },
		"no probe's argv":  func(s *Spec) { s.Probe.Kind, s.Probe.Argv = ProbeCommand, nil },
	} {
		s := fullSpec()
		spoil(&s)
		if _, err := DecodeSpec(s.Append(nil)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzSpec(f *testing.F) {
	s := fullSpec()
	f.Add(s.Append(nil))
	f.Add((&Spec{Argv: []string{"a"}, Workdir: "/", StopSignal: 9, LogMax: 4096}).Append(nil))
	f.Add((&Spec{Argv: []string{"a"}, Workdir: "/", StopSignal: 9, LogMax: 4096, Probe: Probe{Kind: ProbeTCP, Port: 1, TimeoutNs: 1}}).Append(nil))
	f.Add([]byte{specVersion, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSpec(b)
		if err == nil && !bytes.Equal(s.Append(nil), b) {
			t.Fatalf("%x decodes to %+v, which encodes differently", b, s)
		}
	})
}

func TestMessageRoundTrip(t *testing.T) {
	for op := OpState; op < opEnd; op++ {
		want := Request{Op: op, Run: "r", Signal: 15, Grace: time.Second}
		got, err := DecodeRequest(want.Append(nil))
		if err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	reply := Reply{Errno: syscall.ESRCH, State: State{Run: "r", Stopping: true, Paused: true, Alive: true, PID: 7, StartedNs: 8}}
	if got, err := DecodeReply(reply.Append(nil)); err != nil || got != reply {
		t.Errorf("got %+v, %v; want %+v", got, err, reply)
	}
	for _, r := range []*ExitRecord{nil, {Run: "r", Code: 137, Signal: 9, StoppedBy: StoppedByTerm, EndedNs: 8}} {
		errno, text, err := DecodeEndReply(AppendEndReply(nil, r))
		if r == nil && (errno != syscall.EBUSY || text != nil) || r != nil && (errno != 0 || string(text) != string(r.AppendJSON(nil))) || err != nil {
			t.Errorf("got %v, %q, %v; want %+v", errno, text, err, r)
		}
	}
	failed := &StartError{Step: StepExec, Errno: syscall.EACCES, Detail: "d"}
	if ns, e, err := DecodeReport(AppendReport(nil, 0, failed)); err != nil || ns != 0 || *e != *failed {
		t.Errorf("got %v, %v, %v; want %v", ns, e, err, failed)
	}
	if ns, e, err := DecodeReport(AppendReport(nil, 9, nil)); err != nil || ns != 9 || e != nil {
		t.Errorf("got %v, %v, %v", ns, e, err)
	}
}

func TestReportFitsThePipe(t *testing.T) {
	e := &StartError{Step: StepMount, Errno: 2, Detail: strings.Repeat("x", 2*MaxReport)}
	b := AppendReport(nil, 0, e)
	if len(b) > MaxReport {
		t.Fatalf("%d bytes", len(b))
	}
	if _, got, err := DecodeReport(b); err != nil || got.Errno != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(Request{Op: OpStop, Signal: 15, Grace: time.Second}.Append(nil))
	f.Add((&Reply{Errno: 3, State: State{Run: "r", PID: 2}}).Append(nil))
	f.Add(AppendEndReply(nil, &ExitRecord{Run: "r", Code: 1}))
	f.Add(AppendReport(nil, 1, nil))
	f.Add(AppendReport(nil, 0, &StartError{Step: StepExec, Errno: 2, Detail: "d"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequest(b); err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Fatalf("request %x", b)
		}
		if r, err := DecodeReply(b); err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Fatalf("reply %x", b)
		}
		if errno, text, err := DecodeEndReply(b); err == nil && !bytes.Equal(appendString(appendU32([]byte{Version}, uint32(errno)), string(text)), b) {
			t.Fatalf("end %x", b)
		}
		if ns, e, err := DecodeReport(b); err == nil && len(b) <= MaxReport && !bytes.Equal(AppendReport(nil, ns, e), b) {
			t.Fatalf("report %x", b)
		}
	})
}

func TestStartErrorSentences(t *testing.T) {
	for want, e := range map[string]*StartError{
		`command "foo" not found in PATH /bin (step lookup)`:                                 {StepLookup, syscall.ENOENT, `command "foo" not found in PATH /bin`},
		`/etc/passwd is not executable: permission denied (step exec)`:                       {StepExec, syscall.EACCES, "/etc/passwd is not executable"},
		`cannot run /x: exec format error (is the #! line missing?) (step exec)`:             {StepExec, syscall.ENOEXEC, "cannot run /x"},
		`cannot run /x: no such file or directory (is its interpreter missing?) (step exec)`: {StepExec, syscall.ENOENT, "cannot run /x"},
		`mount /src on /dst: no such file or directory (step mount)`:                         {StepMount, syscall.ENOENT, "mount /src on /dst"},
		`the shim died before the command ran (step launch)`:                                 {StepLaunch, 0, "the shim died before the command ran"},
	} {
		if e.Error() != want {
			t.Errorf("got %q, want %q", e.Error(), want)
		}
		if e.Errno != 0 && !errors.Is(e, e.Errno) {
			t.Errorf("%v is not %v", e, e.Errno)
		}
	}
}

func FuzzExitRecord(f *testing.F) {
	f.Add("r", 137, 9, true, "stop", "a \"b\" \\ \n \x00 \xff é", int64(1), int64(2), int64(3))
	f.Add("", 0, 0, false, "", "", int64(-1), int64(0), int64(1<<62))
	f.Fuzz(func(t *testing.T, run string, code, sig int, core bool, by, failed string, started, ended, cpu int64) {
		want := ExitRecord{run, code, sig, core, by, failed, started, ended, cpu}
		b := want.AppendJSON(nil)
		if !utf8.Valid(b) || bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' {
			t.Fatalf("not one line of UTF-8: %q", b)
		}
		var got ExitRecord
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		for _, s := range []*string{&want.Run, &want.StoppedBy, &want.Failed} {
			*s = string([]rune(*s)) // invalid bytes become U+FFFD
		}
		if got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestLogNames(t *testing.T) {
	for _, base := range []int64{0, 1, 10 << 20, 1<<63 - 1} {
		name := LogName(base)
		if got, ok := ParseLogName(name); !ok || got != base || len(name) != 24 {
			t.Errorf("%d: %q, %d, %v", base, name, got, ok)
		}
	}
	for _, name := range []string{"", "log", "log.", "log.1", "log.-0000000000000000001", "log.+0000000000000000001",
		"log.99999999999999999999", "xlog.00000000000000000000", "log.000000000000000000000", "log.0000000000000000000x"} {
		if base, ok := ParseLogName(name); ok {
			t.Errorf("%q was taken for %d", name, base)
		}
	}
}
