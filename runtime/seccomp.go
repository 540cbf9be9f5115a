package runtime

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/shim"
)

// crunFilter is the annotation with which crun takes a compiled filter. A crun that
// does not know it compiles the profile.
const crunFilter = "run.oci.seccomp_bpf_data"

const (
	// maxFilter is the longest filter that the kernel takes, in bytes.
	maxFilter = 4096 * sizeofInstruction
	// maxFilters bounds what is kept: few sets of capabilities are in use.
	maxFilters        = 64
	sizeofInstruction = 8
)

// filters are seccomp profiles as crun has compiled them: that is most of what it
// does at a start (18 of 26 ms).
type filters struct {
	mu   sync.Mutex
	kept map[filterKey]string // in base64
}

// A filterKey stands for a profile and the program that has compiled it.
type filterKey [sha256.Size]byte

// give puts the filter of a spec's profile into it, if there is one. Else it returns
// the key to learn it by.
func (f *filters) give(spec *specs.Spec, runtime string) (*filterKey, error) {
	profile, err := json.Marshal(spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(runtime, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", runtime, err)
	}
	key := filterKey(sha256.Sum256(fmt.Appendf(profile, "%s %d %d %d %d", runtime, st.Dev, st.Ino, st.Size, st.Ctim.Nano())))
	f.mu.Lock()
	defer f.mu.Unlock()
	filter, ok := f.kept[key]
	if !ok {
		return &key, nil
	}
	spec.Annotations = map[string]string{crunFilter: filter}
	return nil, nil
}

// learn keeps the filter that the runtime has made for a container that runs. What
// it is read from belongs to the host's root, and to the shim's mount namespace alone.
func (f *filters) learn(key filterKey, proc *reaper.Process, box string) error {
	file, err := os.Open(fmt.Sprintf("/proc/%d/root%s", proc.PID(), shim.ContainerFilter(box)))
	if err != nil {
		return err
	}
	defer file.Close()
	// The pid was that of the shim when the file was opened.
	if proc.Reaped() {
		return os.ErrProcessDone
	}
	filter, err := io.ReadAll(io.LimitReader(file, maxFilter+1))
	if err != nil {
		return err
	}
	if len(filter) == 0 || len(filter) > maxFilter || len(filter)%sizeofInstruction != 0 {
		return fmt.Errorf("%d bytes are no filter", len(filter))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept == nil || len(f.kept) >= maxFilters {
		f.kept = map[filterKey]string{}
	}
	f.kept[key] = base64.StdEncoding.EncodeToString(filter)
	return nil
}

// learnFilter keeps the seccomp filter of a run that has just begun, if it was not
// known. Without it the next start takes as long as this one.
func (b *Box) learnFilter(r *run) {
	if r.filter == nil {
		return
	}
	err := b.rt.filters.learn(*r.filter, r.proc, b.name)
	// The command may have ended already, or the runtime keep no such file.
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		b.log("start").WithError(err).Warn("the compiled seccomp profile is not kept")
	}
}
