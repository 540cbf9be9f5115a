package functional

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var errnos = map[unix.Errno]kind{
	unix.EINVAL:    invalid,
	unix.EFBIG:     tooBig,
	unix.E2BIG:     tooBig,
	unix.EEXIST:    exists,
	unix.ENOENT:    absent,
	unix.ENODEV:    gone,
	unix.EBUSY:     busy,
	unix.ENODATA:   unconfigured,
	unix.ESRCH:     noProcess,
	unix.ETIMEDOUT: timedOut,
	unix.EIO:       startFailed,
	unix.ECANCELED: canceled,
	unix.EINTR:     interrupted,
	unix.EPERM:     denied,
}

func kindOfErrno(err error) kind {
	if err == nil {
		return fine
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		if k, ok := errnos[errno]; ok {
			return k
		}
	}
	return kind(err.Error())
}

// mount runs the suite against the files of a real daemon.
type mount struct {
	t *testing.T
	h *daemon.Home
	d *daemon.Daemon
}

func newMount(t *testing.T) *mount { return &mount{t: t, h: daemon.New(t)} }

func (m *mount) home() *daemon.Home { return m.h }
func (m *mount) open()              { m.t.Helper(); m.d = m.h.Start() }
func (m *mount) shut()              { m.t.Helper(); m.d.Stop() }
func (m *mount) crash()             { m.t.Helper(); m.d.Kill() }

func (m *mount) create(name string) kind { return kindOfErrno(m.h.Mkdir(name)) }
func (m *mount) remove(name string) kind { return kindOfErrno(m.h.Rmdir(name)) }

func (m *mount) names() (out []string) {
	err := m.h.Call("ls boxes", func() error {
		entries, err := os.ReadDir(m.h.In("boxes"))
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return err
	})
	if err != nil {
		m.t.Fatalf("ls boxes: %v", err)
	}
	slices.Sort(out)
	return out
}

func (m *mount) configure(name, text string) kind {
	write, closed := m.h.Put(name, "config.yaml", text)
	if write != nil {
		return kindOfErrno(write)
	}
	return kindOfErrno(closed)
}

func (m *mount) begin(name, line string) (kind, <-chan kind) {
	accepted, end := make(chan error, 1), make(chan kind, 1)
	done := daemon.Go(func() error {
		fd, err := unix.Open(m.h.Box(name, "ctl"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			accepted <- err
			return nil
		}
		_, err = unix.Write(fd, []byte(line+"\n"))
		accepted <- err
		return unix.Close(fd)
	})
	go func() { end <- kindOfErrno(<-done) }()
	err := m.h.Call("write "+line, func() error { return <-accepted })
	if err != nil {
		return kindOfErrno(err), nil
	}
	return fine, end
}

func (m *mount) read(name, file string) (string, kind) {
	text, err := m.h.Read("boxes", name, file)
	return strings.TrimSuffix(text, "\n"), kindOfErrno(err)
}

type mountWaiter struct{ fd int }

func (w mountWaiter) result(ctx context.Context) (text string, k kind) {
	tid := make(chan int, 1)
	done := daemon.Interruptible(tid, func() (err error) {
		text, err = daemon.ReadFD(w.fd)
		return errors.Join(err, unix.Close(w.fd))
	})
	select {
	case err := <-done:
		return strings.TrimSuffix(text, "\n"), kindOfErrno(err)
	case <-ctx.Done():
	}
	// A signal that comes before the read has begun interrupts nothing, so it is
	// sent until one has.
	thread := <-tid
	for {
		if err := unix.Tgkill(os.Getpid(), thread, unix.SIGUSR1); err != nil && !errors.Is(err, unix.ESRCH) {
			return "", kindOfErrno(err)
		}
		select {
		case err := <-done:
			return strings.TrimSuffix(text, "\n"), kindOfErrno(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (m *mount) watch(name, file string) (waiter, kind) {
	fd := -1
	err := m.h.Call("open wait/"+file, func() (err error) {
		fd, err = unix.Open(m.h.Box(name, "wait", file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return mountWaiter{fd}, kindOfErrno(err)
}

func (m *mount) chown(name, file string, uid, gid, mode uint32) kind {
	path := m.h.Box(name, file)
	return kindOfErrno(m.h.Call("chown "+file, func() error {
		if err := unix.Chown(path, int(uid), int(gid)); err != nil {
			return err
		}
		return unix.Chmod(path, mode)
	}))
}

func (m *mount) touch(name string) kind {
	return kindOfErrno(m.h.Call("touch "+name, func() error { return unix.Utimes(m.h.Box(name), nil) }))
}

func (m *mount) lastError() string { return strings.TrimSuffix(m.h.MustRead("last_error"), "\n") }
