package runtime

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// execAnswer is what a shim says of an exec in that phase.
func execAnswer(phase wire.ExecPhase, code byte) []byte {
	p := make([]byte, 36)
	p[0], p[5], p[7] = 1, byte(phase), code
	return p
}

// The shim says once that an exec has ended whose end is not on record: while the answer to
// the order to begin it is still under way.
func TestAnEndThatIsNotOnRecordIsTakenAfterTheBegin(t *testing.T) {
	b, e := execBox(t)
	b.inRun(t, "command: [a]\nuser: nobody")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(b.dir, wire.SocketName)}))
	must(t, unix.Listen(fd, 8))
	served := make(chan struct{})
	go func() {
		defer close(served)
		watch := -1
		for {
			c, _, err := unix.Accept(fd)
			if err != nil {
				_ = unix.Close(watch)
				return
			}
			buf := make([]byte, 1024)
			n, _ := unix.Read(c, buf)
			if n < 2 {
				_ = unix.Close(c)
				continue
			}
			switch wire.Op(buf[1]) {
			case wire.OpWatchExecs:
				_ = unix.Send(c, []byte("\x01\x00\x00\x00\x00\x02\x00\x00\x00r1\x00\x00\x01\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
				watch = c
				continue
			case wire.OpExec:
				// Once it reads on after the first word, it has done all that came of it.
				for _, unwritten := range []byte{1, 0} {
					_ = unix.Send(watch, []byte{1, unwritten}, 0)
					for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
						if left, err := unix.IoctlGetInt(watch, unix.SIOCOUTQ); err != nil || left == 0 {
							break
						}
					}
				}
				_ = unix.Send(c, execAnswer(wire.ExecRunning, 0), 0)
			case wire.OpExecState:
				_ = unix.Send(c, execAnswer(wire.ExecEnded, 7), 0)
			}
			_ = unix.Close(c)
		}
	}()
	done, err := e.Run(By{UID: 0, PID: os.Getpid()}, []byte("true"))
	must(t, err)
	must(t, done.Wait(t.Context()))
	if s := e.Snapshot(); s.Status != ExecStopped || s.ExitCode != 7 {
		t.Errorf("%s, exit code %d", s.Status, s.ExitCode)
	}
	close(b.rt.closing)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	must(t, unix.Close(fd))
	<-served
}
