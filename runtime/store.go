package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/deep"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// The files of a box's directory; the log's and the shim's own are named in
// packages wire and client.
const (
	configFile = "config.yaml"
	stateFile  = "state.json"
	shimFile   = "shim.json"
)

// store is the state directory on disk.
type store struct {
	dir  string
	lock *os.File // held for as long as the daemon lives
	// slow, unless it is nil, is called before a directory of a box is opened or moved: a
	// test has the disk take its time.
	slow func()
}

func (s *store) wait() {
	if s.slow != nil {
		s.slow()
	}
}

func (s *store) openDir(path string) (*os.File, error) {
	s.wait()
	return os.Open(path)
}

func (s *store) openRoot(path string) (*os.Root, error) {
	s.wait()
	return os.OpenRoot(path)
}

// LockedError says that another daemon uses the state directory.
type LockedError struct {
	Dir string
	PID int // of the other daemon; 0 if it could not be read
}

// Error names the other daemon and the directory.
func (e *LockedError) Error() string {
	return fmt.Sprintf("another boxlited (pid %d) is using %s", e.PID, e.Dir)
}

// openStore creates what is missing of the state directory and locks it.
func openStore(dir string) (*store, error) {
	for _, d := range []string{dir, filepath.Join(dir, "boxes"), filepath.Join(dir, "trash")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		b := make([]byte, 32)
		n, _ := f.ReadAt(b, 0) // a short read is the rule
		pid, perr := strconv.Atoi(strings.TrimSpace(string(b[:n])))
		if perr != nil {
			pid = 0
		}
		_ = f.Close()
		return nil, &LockedError{Dir: dir, PID: pid}
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return &store{dir: dir, lock: f}, nil
}

func (s *store) boxDir(name string) string { return filepath.Join(s.dir, "boxes", name) }

// discard moves a box's directory out of the way in one step, so that a box is
// either whole or gone, and returns where it is now.
func (s *store) discard(name string, serial uint64) (string, error) {
	to := filepath.Join(s.dir, "trash", name+"."+strconv.FormatUint(serial, 10)+"."+strconv.FormatInt(time.Now().UnixNano(), 36))
	s.wait()
	err := os.Rename(s.boxDir(name), to)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // somebody else removed it: as good as discarded
	}
	return to, err
}

// discardExec is discard for an exec of a box.
func (s *store) discardExec(box, exec string, serial uint64) (string, error) {
	to := filepath.Join(s.dir, "trash", box+"."+exec+"."+strconv.FormatUint(serial, 10)+"."+strconv.FormatInt(time.Now().UnixNano(), 36))
	err := os.Rename(filepath.Join(s.boxDir(box), wire.ExecDir, exec), to)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return to, err
}

// emptyTrash deletes what earlier removals left.
func (s *store) emptyTrash(ctx context.Context) error {
	trash := filepath.Join(s.dir, "trash")
	left, err := os.ReadDir(trash)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range left {
		if ctx.Err() != nil {
			break // the next daemon goes on
		}
		fault.PointIn("trash.emptying", trash, e.Name())
		errs = append(errs, deep.RemoveAll(ctx, filepath.Join(trash, e.Name())))
	}
	return errors.Join(errs...)
}

// stateRecord is state.json: what a box is known by besides its configuration.
type stateRecord struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Runs    int       `json:"runs"`
	LastRun string    `json:"last_run,omitempty"` // id of the last run that was seen to end
	// LastNumber is its number. The record of its shim may be an earlier run's: it may
	// never have had one.
	LastNumber int           `json:"last_number,omitempty"`
	Status     status.Status `json:"status"` // stopped or failed after the last run, else configured
	ExitCode   int           `json:"exit_code"`
	LastError  string        `json:"last_error"`
	Started    time.Time     `json:"started,omitzero"`
	Ended      time.Time     `json:"ended,omitzero"`
	CPUUsec    int64         `json:"cpu_usec,omitempty"`
	OOMKills   uint64        `json:"oom_kills,omitempty"`
	// RestartAt is when the box is to be started again after its last run; zero if
	// it is not.
	RestartAt time.Time `json:"restart_at,omitzero"`
	// RestartDue and ActiveAt are RestartAt and Active by the clock of the boot BootID,
	// which nobody sets.
	RestartDue moment `json:"restart_due_ns,omitempty"`
	ActiveAt   moment `json:"active_at_ns,omitempty"`
	BootID     string `json:"boot_id,omitempty"`
	Restarts   int    `json:"restarts,omitempty"`
	Retries    int    `json:"retries,omitempty"` // in a row
	// Asked is the id of the last run that a person has asked to end: written before
	// that is done, so that no daemon restarts it.
	Asked string `json:"asked,omitempty"`
	// Again is the id of the last run that a person has asked to end for a restart.
	Again string `json:"again,omitempty"`
	// Health is that of the run HealthRun, or what that run left.
	Health    status.Health           `json:"health,omitempty"`
	HealthRun string                  `json:"health_run,omitempty"`
	Active    time.Time               `json:"active,omitzero"` // see expire.idle
	Owners    map[string]status.Owner `json:"owners,omitempty"`
	// FirstID is the first of the host's ids that the box's containers have; see
	// Options.FirstID.
	FirstID uint32 `json:"first_id,omitempty"`
	// Image is the digest of the image that its last container was made from.
	Image string `json:"image,omitempty"`
	// Remove says that the box is to be removed because its run has ended.
	Remove bool `json:"remove,omitempty"`
}

// shimRecord is shim.json: the run that began last. It is on disk before the shim
// is let go, so that no daemon can lose a box that runs. It stays when the run has
// ended: state.json's LastRun says so then.
type shimRecord struct {
	Version  int             `json:"version"`
	Run      string          `json:"run"`
	Number   int             `json:"number"`
	Identity reaper.Identity `json:"identity"`
	Started  time.Time       `json:"started"`
	// Since is Started by the clock of the boot that Identity names.
	Since  moment        `json:"since_ns,omitempty"`
	Config string        `json:"config"` // as it was when the run started
	Cgroup *cgroup.Group `json:"cgroup,omitempty"`
	// FirstID and Image are those of the state.json, which may be found broken.
	FirstID uint32 `json:"first_id,omitempty"`
	Image   string `json:"image,omitempty"`
	// Layers are those of the image that are mounted, by the inode numbers of their
	// directories.
	Layers []uint64 `json:"layers,omitempty"`
}

const recordVersion = 1

// recordedStatus is the status as state.json has it. That a box is restarting is told by
// RestartAt: a daemon that does not know the word finds the box stopped.
func recordedStatus(s status.Status) status.Status {
	if s == status.Restarting {
		return status.Stopped
	}
	return s
}

// decodeState and its sisters are strict about what the daemon depends on:
// whatever they accept can be used without another check.
func decodeState(b []byte) (*stateRecord, error) {
	r := &stateRecord{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("version %d is not %d", r.Version, recordVersion)
	case r.Runs < 0:
		return nil, fmt.Errorf("runs is %d", r.Runs)
	case r.Status != status.Configured && r.Status != status.Stopped && r.Status != status.Failed && r.Status != status.Empty:
		return nil, fmt.Errorf("status is %q", r.Status)
	}
	if r.Restarts < 0 || r.Retries < 0 {
		return nil, fmt.Errorf("restarts is %d, retries %d", r.Restarts, r.Retries)
	}
	switch r.Health {
	case "", status.HealthNone, status.HealthStarting, status.Healthy, status.Unhealthy:
	default:
		r.Health = "" // another version's word: the next probe tells
	}
	for name, o := range r.Owners {
		if o.Mode&^0o777 != 0 {
			return nil, fmt.Errorf("mode of %q is %o", name, o.Mode)
		}
	}
	r.LastError = oneLine(r.LastError)
	return r, nil
}

func decodeShim(b []byte) (*shimRecord, error) {
	r := &shimRecord{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("version %d is not %d", r.Version, recordVersion)
	case r.Run == "":
		return nil, errors.New("run is missing")
	case r.Identity.PID <= 1 || r.Identity.BootID == "":
		return nil, fmt.Errorf("identity %+v is incomplete", r.Identity)
	}
	if r.Cgroup != nil && !r.Cgroup.Plausible() {
		return nil, errors.New("cgroup has a directory that no box has")
	}
	return r, nil
}

func decodeExit(b []byte) (*wire.ExitRecord, error) {
	r := &wire.ExitRecord{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	switch {
	case r.Run == "":
		return nil, errors.New("run is missing")
	case r.Code < 0 || r.Code > 255:
		return nil, fmt.Errorf("code is %d", r.Code)
	case r.Signal < 0 || r.Signal > 64:
		return nil, fmt.Errorf("signal is %d", r.Signal)
	}
	r.Failed = oneLine(r.Failed)
	return r, nil
}

// unusable is the error of a record that was read and makes no sense, and is
// kept aside. What a read itself fails of says nothing about the record.
type unusable struct {
	name, aside string
	err         error
}

func (u *unusable) Error() string {
	return fmt.Sprintf("%s was unusable (%v) and is kept as %s", u.name, u.err, u.aside)
}

func (u *unusable) Unwrap() error { return u.err }

// load reads and decodes a record of a box. A file that is not there gives
// (nil, nil). One that cannot be used is kept aside as NAME.bad for a person to
// look at, and the error, an *unusable, says so.
func load[T any](dir, name string, decode func([]byte) (*T, error)) (*T, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := decode(b)
	if err == nil {
		return r, nil
	}
	fault.Point("load.unusable", name)
	aside := filepath.Join(dir, name+".bad")
	if rerr := os.Rename(filepath.Join(dir, name), aside); rerr != nil {
		return nil, fmt.Errorf("%s is unusable (%w) and cannot be kept aside: %w", name, err, rerr)
	}
	fault.Point("load.aside", name)
	return nil, &unusable{name, aside, err}
}

// oneLine makes any text fit a file that holds one line and is read on a terminal.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' || r == 0 }), "; ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
