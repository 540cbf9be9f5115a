// Command bench measures what boxlite costs beside programs that do a comparable job, and prints
// the result as a Markdown table. It is started by scripts/bench, which builds what it needs.
//
// Every duration is the median of interleaved rounds (ours, peer, ours, peer, …), every ratio the
// median of the rounds' own ratios: what disturbs the machine for a while disturbs both sides.
package main

import (
	"context"
	"errors"
	"flag" //nolint:depguard // this is a main
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes.
const (
	exitOK     = 0 // the bench ran; missed goals are in the table
	exitFailed = 1 // a step failed, or something was left over
	exitUsage  = 2 // the command line is wrong
)

const (
	// stuckAfter bounds the time between two signs of progress.
	stuckAfter = 90 * time.Second
	// abandonAfter is what a step gets to return in once it was told to end.
	abandonAfter = 5 * time.Second
)

// A benchmark fills some lines of the table.
type benchmark struct {
	name, about string
	run         func(context.Context, *bench) error
}

var benchmarks = []benchmark{
	{"start", "start a box that runs true, and wait for its end", benchStart},
	{"kill", "force-stop a tree of processes", benchKill},
	{"recovery", "start the daemon over running boxes", benchRecovery},
	{"status", "open, read and close a status file", benchStatus},
	{"shim", "memory of a box's supervisor", benchShimMemory},
	{"memory", "memory of the daemon with 0, 100 and 1,000 boxes", benchDaemonMemory},
	{"container", "start, force-stop and exec of containers, and the memory of their supervisors", benchContainer},
	{"health", "what health checks cost, and how soon a watcher sees a death", benchHealth},
	{"idle", "what wakes up when nothing happens", benchIdle},
}

// A bench is one run: its workplace, its results and what has to be undone.
type bench struct {
	dir    string // holds bin/ and everything the run makes
	rounds int    // 0 leaves it to the benchmark
	table  table
	// used are the peers that were measured, with their versions; counted are the rounds.
	used, counted []string

	undo     []func() error
	progress atomic.Int64 // UnixNano of the last sign of life
	step     atomic.Pointer[string]
}

func init() {
	// A signal ends the request that its thread waits in, with EINTR. The kernel gives a process's
	// signals (SIGCHLD above all) to its main thread, if that takes them: no client may run there.
	runtime.LockOSThread()
}

func main() {
	os.Exit(run())
}

func run() int {
	dir, err := workplace()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitUsage
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 0, "interleaved rounds of each measurement (default: as many as it needs)")
	flags.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: scripts/bench [--rounds N] [NAME…]\n\nnames (default: all):\n")
		for _, m := range benchmarks {
			fmt.Fprintf(os.Stderr, "  %-9s %s\n", m.name, m.about)
		}
		fmt.Fprintf(os.Stderr, "\n")
		flags.PrintDefaults()
	}
	if usageErr := flags.Parse(os.Args[1:]); usageErr != nil {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			return exitFailed
		}
		if errors.Is(usageErr, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	chosen, err := choose(flags.Args())
	if err == nil && *rounds < 0 {
		err = fmt.Errorf("--rounds %d: must not be negative", *rounds)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", errors.Join(err, os.RemoveAll(dir)))
		return exitUsage
	}

	// scripts/bench switches off the runtime's preemption signals, for the same reason; what
	// the bench starts shall run as it always does.
	if err := os.Unsetenv("GODEBUG"); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitFailed
	}
	// Whatever is orphaned below becomes a child of this process, so that the end of the run can
	// find it, and never a foreign process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "bench: become a subreaper: %v\n", err)
		return exitFailed
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()

	b := &bench{dir: dir, rounds: *rounds}
	b.say("starting")
	err = b.watched(ctx, chosen)
	err = errors.Join(err, b.cleanUp())

	if len(b.table.lines) > 0 {
		err = errors.Join(err, b.table.print(os.Stdout))
		fmt.Printf("\n%s\n", b.conditions())
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// workplace returns the directory that scripts/bench has made for this run, with this program in
// its bin. The end of the run removes it, so it must be no other.
func workplace() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(filepath.Dir(program))
	if filepath.Base(filepath.Dir(program)) != "bin" || !strings.HasPrefix(filepath.Base(dir), "boxlite-bench.") {
		return "", errors.New("start it with scripts/bench")
	}
	return dir, nil
}

// choose returns the benchmarks of these names, in the order of the table; no name means all.
func choose(names []string) ([]benchmark, error) {
	if len(names) == 0 {
		return benchmarks, nil
	}
	var known []string
	for _, m := range benchmarks {
		known = append(known, m.name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("no benchmark %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(benchmarks), func(m benchmark) bool {
		return !slices.Contains(names, m.name)
	}), nil
}

// watched runs the benchmarks and gives up on one that makes no progress. It may return while the
// abandoned one still hangs in a request: the clean-up ends the daemon, and so the request.
func (b *bench) watched(ctx context.Context, chosen []benchmark) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		// A measured thread must not be swapped for another between two calls.
		runtime.LockOSThread()
		done <- b.runAll(ctx, chosen)
	}()

	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			select {
			case err := <-done:
				return err
			case <-time.After(abandonAfter):
				return fmt.Errorf("%s: did not end when told to", *b.step.Load())
			}
		case <-watch.C:
			if quiet := time.Since(time.Unix(0, b.progress.Load())); quiet > stuckAfter {
				return fmt.Errorf("%s: no progress for %v", *b.step.Load(), quiet.Round(time.Second))
			}
		}
	}
}

func (b *bench) runAll(ctx context.Context, chosen []benchmark) error {
	for _, m := range chosen {
		b.say("%s: %s", m.name, m.about)
		if err := m.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// say tells the person what is going on, and the watchdog that something is.
func (b *bench) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.step.Store(&text)
	b.alive()
	fmt.Fprintf(os.Stderr, "bench: %s\n", text)
}

func (b *bench) alive() {
	b.progress.Store(time.Now().UnixNano())
}

// roundsOr returns the rounds that the person asked for, or n, and notes it for the report.
func (b *bench) roundsOr(benchmark string, n int) int {
	if b.rounds > 0 {
		n = b.rounds
	}
	b.counted = append(b.counted, fmt.Sprintf("%d (%s)", n, benchmark))
	return n
}

// onEnd registers what the end of the run undoes, last first. A function that was done before
// returns nil when it is called again.
func (b *bench) onEnd(f func() error) {
	b.undo = append(b.undo, f)
}

// cleanUp undoes everything, then ends whatever descends from this process all the same; to find
// such a process is an error.
func (b *bench) cleanUp() error {
	var errs []error
	for _, f := range slices.Backward(b.undo) {
		if err := f(); err != nil {
			errs = append(errs, err)
		}
	}
	left, err := endChildren(10 * time.Second)
	if err != nil {
		errs = append(errs, err)
	}
	if len(left) > 0 {
		const enough = 5
		errs = append(errs, fmt.Errorf("left over, and killed: %d processes: %s",
			len(left), strings.Join(left[:min(enough, len(left))], ", ")))
	}
	mounts, err := mountsBelow(b.dir)
	if err != nil {
		errs = append(errs, err)
	}
	for _, m := range mounts {
		errs = append(errs, fmt.Errorf("left over, and detached: mount %s", m))
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			// The directory is not removed: that would delete what is mounted in it.
			return errors.Join(append(errs, fmt.Errorf("unmount %s: %w", m, err))...)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

func (b *bench) bin(name string) string {
	return filepath.Join(b.dir, "bin", name)
}
