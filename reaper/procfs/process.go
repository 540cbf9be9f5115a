// Package procfs reads what /proc says of a process.
//
// It is the only parser of these files. Whoever asks has to know that a pid may be another
// process's by the time of the answer; an open descriptor of /proc/PID is of one process
// for good, and gives ESRCH when that was reaped.
package procfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is the directory in /proc of a process, or of a thread.
type Process struct {
	fd   int    // a descriptor of it, or AT_FDCWD
	path string // from fd, with a slash at its end
}

// Self is the process that asks.
var Self = Process{fd: unix.AT_FDCWD, path: "/proc/self/"}

// Of returns the process that has a pid now, or the thread that has it as its id.
func Of(pid int) Process {
	return Process{fd: unix.AT_FDCWD, path: "/proc/" + strconv.Itoa(pid) + "/"}
}

// At returns the process of an open descriptor of /proc/PID, which may be O_PATH and has to
// stay open.
func At(fd int) Process { return Process{fd: fd} }

// Comm returns the name of the process's command, which the process may set itself to any
// characters.
func (p Process) Comm() (string, error) {
	var buf [128]byte // a thread of the kernel has up to 64
	text, err := p.read("comm", buf[:])
	return strings.TrimSuffix(string(text), "\n"), err
}

// Children returns the pids of the children of all threads of the process. While some of
// them are being reaped, others may be missing. With an error there are those that could be
// read all the same.
func (p Process) Children() ([]int, error) {
	tasks, err := p.names("task")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, task := range tasks {
		text, rerr := p.readAll("task/"+task+"/children", -1)
		if Gone(rerr) {
			continue // a thread that has ended; its children are another's now
		}
		err = errors.Join(err, rerr)
		for word := range strings.FieldsSeq(text) {
			pid, perr := strconv.Atoi(word)
			if perr != nil {
				err = errors.Join(err, perr)
				continue
			}
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// SameProgram reports whether two processes are known to execute the same file.
func (p Process) SameProgram(o Process) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(p.fd, p.path+"exe", &a, 0) == nil && unix.Fstatat(o.fd, o.path+"exe", &b, 0) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// PrivateMemory returns the resident memory, in bytes, that is not shared with a file.
func (p Process) PrivateMemory() (int64, error) {
	var buf [256]byte
	text, err := p.read("statm", buf[:])
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text))
	if len(f) < 3 {
		return 0, fmt.Errorf("%sstatm has only %d fields", p.path, len(f))
	}
	resident, rerr := strconv.ParseInt(f[1], 10, 64)
	shared, serr := strconv.ParseInt(f[2], 10, 64)
	return max(0, resident-shared) * int64(os.Getpagesize()), errors.Join(rerr, serr)
}

// Gone reports whether a read of /proc failed because the process or thread has ended.
func Gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// PidfdPID returns the pid of the process that a pidfd of this process stands for: -1 once
// that was reaped, 0 if the descriptor is no pidfd.
func PidfdPID(fd int) (int, error) {
	var buf [512]byte
	text, err := Self.read("fdinfo/"+strconv.Itoa(fd), buf[:])
	if err != nil {
		return 0, err
	}
	pid := Status(text).Field("Pid")
	if pid == "" {
		return 0, nil
	}
	return strconv.Atoi(pid)
}

// read fills buf from the beginning of a file, of which the kernel gives in one read what
// fits.
func (p Process) read(name string, buf []byte) ([]byte, error) {
	fd, err := p.open(name, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	n, err := p.readSome(fd, name, buf)
	return buf[:n], err
}

// readAll reads a file of any size, or what there is of it in its first limit bytes if that
// is not negative.
func (p Process) readAll(name string, limit int64) (string, error) {
	fd, err := p.open(name, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	text := make([]byte, 0, 4<<10)
	for limit < 0 || int64(len(text)) < limit {
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
		n, err := p.readSome(fd, name, text[len(text):cap(text)])
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		text = text[:len(text)+n]
	}
	if limit >= 0 {
		text = text[:min(int64(len(text)), limit)]
	}
	return string(text), nil
}

func (p Process) names(name string) ([]string, error) {
	fd, err := p.open(name, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), p.path+name)
	defer dir.Close()
	return dir.Readdirnames(-1)
}

func (p Process) open(name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(p.fd, p.path+name, flags|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, fmt.Errorf("open %s: %w", p.path+name, err)
		}
	}
}

func (p Process) readSome(fd int, name string, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("read %s: %w", p.path+name, err)
		}
	}
}
