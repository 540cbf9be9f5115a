package fsapi

import (
	"os"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// fakeDraft begins work with each commit.
type fakeDraft struct {
	end func(error)
}

func (d *fakeDraft) mayWrite() error          { return nil }
func (d *fakeDraft) checkPrefix([]byte) error { return nil }
func (d *fakeDraft) check([]byte) error       { return nil }
func (d *fakeDraft) refuse(err error) error   { return err }

func (d *fakeDraft) commit([]byte) (*runtime.Completion, error) {
	work, end := runtime.NewCompletion()
	d.end = end
	return work, nil
}

// A shell opens cmd, and a program that it has started writes it, asks with an fsync for it
// to begin, and closes it.
func TestWhoHasWrittenIsToldHowWhatHisFsyncBeganHasEnded(t *testing.T) {
	const opener, writer, other = "opener", "writer", "other"
	child, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{})
	must(t, err)
	t.Cleanup(func() {
		must(t, child.Kill())
		_, _ = child.Wait() // it was killed
	})
	pids := map[string]int{opener: os.Getppid(), writer: os.Getpid(), other: child.Pid}
	as := func(who string) *fuse.Context {
		return &fuse.Context{Caller: fuse.Caller{Pid: uint32(pids[who])}}
	}
	for name, c := range map[string]struct {
		writer string
		closes []string
		told   string
	}{
		"the writer closes first":          {writer, []string{writer, opener}, writer},
		"the opener closes first":          {writer, []string{opener, writer}, writer},
		"another closes it at his end":     {writer, []string{other, writer, opener}, writer},
		"once":                             {writer, []string{writer, writer}, writer},
		"the opener has written it itself": {opener, []string{other, opener, opener}, opener},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fakeDraft{}
			h := &draftHandle{node: &node{place: place{fs: &FS{closing: make(chan struct{})}, of: ofDaemon{}}}, doc: d, owner: pids[opener]}
			if _, errno := h.Write(as(c.writer), []byte("command: [false]\n"), 0); errno != 0 {
				t.Fatal(errno)
			}
			if errno := h.Fsync(as(c.writer), 0); errno != 0 {
				t.Fatal(errno)
			}
			d.end(runtime.ErrTimedOut)
			told := false
			for _, who := range c.closes {
				var want syscall.Errno
				if who == c.told && !told {
					told, want = true, toErrno(runtime.ErrTimedOut)
				}
				if got := h.Flush(as(who)); got != want {
					t.Errorf("the close of the %s gives %v, not %v", who, got, want)
				}
			}
		})
	}
}
