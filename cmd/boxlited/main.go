// Command boxlited is the boxlite daemon: it mounts the control filesystem and
// runs boxes. See boxlited --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/fsapi"
	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// version and commit are set by the linker (-X main.version=… -X main.commit=…).
var (
	version = "0.1.0-dev"
	commit  = "unknown"
)

// shutdownBound is how long a daemon that was asked to end takes at most, with
// room to spare under the 2 s that are promised.
const shutdownBound = 1500 * time.Millisecond

func main() {
	switch os.Args[0] {
	case notifierName:
		os.Exit(runNotifier())
	case image.UnpackerName:
		os.Exit(image.RunUnpacker())
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	mount, state, shim string
	cgroupParent       string
	maxProbes          int
	firstID, ids       uint32
	registryConfig     string
	metricsListen      string
	private            bool
	logLevel           logrus.Level
	logFormat          string
	showVersion        bool
}

func run(args []string, stdout, stderr io.Writer) int {
	opt, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, usage())
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "boxlited: %v (boxlited --help tells more)\n", err)
		return exitUsage
	}
	line := fmt.Sprintf("boxlited %s %s %s", version, commit, goruntime.Version())
	if opt.showVersion {
		fmt.Fprintln(stdout, line)
		return exitOK
	}
	logger := logrus.New()
	colors := false
	if stderr == os.Stderr {
		stderr, colors = partStderr(), isTerminal()
	}
	queue := newLogQueue(stderr)
	defer queue.flush()
	logger.SetOutput(queue)
	logger.SetLevel(opt.logLevel)
	if opt.logFormat == "json" {
		logger.SetFormatter(&logrus.JSONFormatter{
			TimestampFormat: time.RFC3339Nano,
			FieldMap:        logrus.FieldMap{logrus.FieldKeyMsg: "message"},
		})
	} else {
		logger.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: time.RFC3339Nano, ForceColors: colors})
	}
	// Every line has the fields box, op, pid, state and err where they apply.
	logrus.ErrorKey = "err"
	queue.notice = lostLine(logger.Formatter)
	code, err := serve(opt, line, logrus.NewEntry(logger), newRegistry(queue))
	if err != nil {
		logger.WithError(runtime.ExplainFiles(err)).WithField("op", "daemon").Error("boxlited ends")
	}
	return code
}

// flags returns the flags of the command line, each of which has its paragraph in the page
// boxlited(8). level and ids are those that parse has to look into.
func flags(opt *options, level, ids *string) *flag.FlagSet {
	fl := flag.NewFlagSet("boxlited", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	fl.Usage = func() {}
	fl.StringVar(&opt.mount, "mount", "/run/boxlite", "")
	fl.StringVar(&opt.state, "state", "/var/lib/boxlite", "")
	fl.StringVar(&opt.shim, "shim", "", "")
	fl.StringVar(&opt.cgroupParent, "cgroup-parent", "/boxlite", "")
	fl.IntVar(&opt.maxProbes, "max-probes", runtime.DefaultMaxProbes, "")
	fl.StringVar(ids, "ids", fmt.Sprintf("%d:%d", runtime.DefaultFirstID, runtime.DefaultIDs), "")
	fl.StringVar(&opt.registryConfig, "registry-config", "", "")
	fl.StringVar(&opt.metricsListen, "metrics-listen", "", "")
	fl.BoolVar(&opt.private, "private", false, "")
	fl.StringVar(level, "log-level", "info", "")
	fl.StringVar(&opt.logFormat, "log-format", "text", "")
	fl.BoolVar(&opt.showVersion, "version", false, "")
	return fl
}

func parse(args []string) (options, error) {
	var opt options
	var level, ids string
	fl := flags(&opt, &level, &ids)
	if err := fl.Parse(args); err != nil {
		return opt, err
	}
	if fl.NArg() > 0 {
		return opt, fmt.Errorf("unexpected argument %q", fl.Arg(0))
	}
	var err error
	if opt.logLevel, err = logrus.ParseLevel(level); err != nil || opt.logLevel < logrus.ErrorLevel || opt.logLevel > logrus.DebugLevel {
		return opt, fmt.Errorf("--log-level %q: must be error, warn, info or debug", level)
	}
	if opt.logFormat != "text" && opt.logFormat != "json" {
		return opt, fmt.Errorf("--log-format %q: must be text or json", opt.logFormat)
	}
	if opt.mount == "" || opt.state == "" {
		return opt, errors.New("--mount and --state must not be empty")
	}
	if !filepath.IsAbs(opt.cgroupParent) || filepath.Clean(opt.cgroupParent) != opt.cgroupParent {
		return opt, fmt.Errorf("--cgroup-parent %q: must be a clean path from the root of the cgroup hierarchy, like /boxlite", opt.cgroupParent)
	}
	if opt.maxProbes < 1 || opt.maxProbes > 1<<16 {
		return opt, fmt.Errorf("--max-probes %d: must be from 1 to %d", opt.maxProbes, 1<<16)
	}
	if opt.firstID, opt.ids, err = parseIDs(ids); err != nil {
		return opt, err
	}
	if err := checkListen(opt.metricsListen); err != nil {
		return opt, err
	}
	if opt.registryConfig != "" {
		if opt.registryConfig, err = filepath.Abs(opt.registryConfig); err != nil {
			return opt, fmt.Errorf("--registry-config: %w", err)
		}
		if err := image.CheckRegistryConfig(opt.registryConfig); err != nil {
			return opt, fmt.Errorf("--registry-config: %w", err)
		}
	}
	if opt.mount, err = resolve(opt.mount); err != nil {
		return opt, fmt.Errorf("--mount: %w", err)
	}
	if opt.state, err = resolve(opt.state); err != nil {
		return opt, fmt.Errorf("--state: %w", err)
	}
	// What the daemon itself serves it can't live on; and a box is kept from both
	// by covering them, which must not cover one with the other.
	if within(opt.state, opt.mount) {
		return opt, fmt.Errorf("--state %s is under --mount %s: the daemon cannot keep its state in what it serves", opt.state, opt.mount)
	}
	if within(opt.mount, opt.state) {
		return opt, fmt.Errorf("--mount %s is under --state %s: give it a place of its own", opt.mount, opt.state)
	}
	return opt, nil
}

// parseIDs parses FIRST:COUNT, the host's ids that containers get.
func parseIDs(text string) (first, count uint32, err error) {
	a, b, _ := strings.Cut(text, ":")
	f, ferr := strconv.ParseUint(a, 10, 32)
	n, nerr := strconv.ParseUint(b, 10, 32)
	// The ids below are people's and services', and -1 is none.
	if ferr != nil || nerr != nil || f < 1<<16 || n < 1<<16 || f+n > 1<<32-1 {
		return 0, 0, fmt.Errorf("--ids %q: must be FIRST:COUNT, with FIRST of at least 65536 and COUNT of at least 65536 (a container takes so many), below 4294967295 in all", text)
	}
	return uint32(f), uint32(n), nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// resolve makes a path absolute and resolves the links in it, whether or not it
// exists. It only ever asks whether a component is a link: the last may be a dead
// or hung mount, which that question does not touch.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	links := 0
	var walk func(string) (string, error)
	walk = func(path string) (string, error) {
		if path == "/" {
			return path, nil
		}
		dir, err := walk(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link; whether it is fit for use is seen when it is used
		}
		if links++; links > 40 { // as many as the kernel follows
			return "", fmt.Errorf("%s: %w", path, syscall.ELOOP)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		return walk(filepath.Clean(target))
	}
	return walk(path)
}

// findShim returns the absolute path of the shim's binary.
func findShim(path string) (string, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		path = filepath.Join(filepath.Dir(self), "boxlite-shim")
		if _, err := os.Stat(path); err != nil {
			if path, err = exec.LookPath("boxlite-shim"); err != nil {
				return "", errors.New("boxlite-shim is neither beside boxlited nor on PATH (give --shim PATH)")
			}
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("--shim: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return "", fmt.Errorf("--shim: %s is not an executable file", path)
	}
	return path, nil
}

// serve is the daemon's life. It returns the exit code, and the error that goes
// with it.
func serve(opt options, version string, log *logrus.Entry, reg *prometheus.Registry) (int, error) {
	shim, err := findShim(opt.shim)
	if err != nil {
		return exitShim, err
	}
	if os.Geteuid() != 0 {
		return exitOther, errors.New("must be run as root: it mounts a filesystem and makes namespaces")
	}
	if err := makeThreads(); err != nil {
		return exitOther, err
	}
	score, err := shield()
	if err != nil {
		log.WithError(err).WithField("op", "daemon").Warn("the daemon is not ranked before boxes for the OOM killer")
	}
	// From here on a signal ends the daemon in order. SIGPIPE is taken so that a
	// reader of the log who goes away does not end it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, append(endSignals(), syscall.SIGUSR1)...)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	ctl := fsapi.New(version, log, reg)
	ctl.NotifyBy(spawnNotifier)
	if opt.private {
		ctl.KeepPrivate()
	}
	ctl.OnPanic(exitOnPanic(log))
	rt, err := runtime.Open(runtime.Options{
		State: opt.state, CgroupParent: opt.cgroupParent, FirstID: opt.firstID, IDs: opt.ids, RegistryConfig: opt.registryConfig, MaxProbes: opt.maxProbes, OOMScore: score, Mask: []string{opt.mount}, Shim: shim, Log: log, Observer: ctl, Metrics: reg,
	})
	if errors.As(err, new(*runtime.LockedError)) {
		return exitLock, err
	}
	if errors.Is(err, runtime.ErrHost) {
		return exitOther, err
	}
	if err != nil {
		return exitState, err
	}
	listener, err := listen(opt.metricsListen, log)
	if err != nil {
		return exitOther, errors.Join(err, closeRuntime(rt))
	}
	defer listener.Close()
	if err := fsapi.ClearMountPoint(opt.mount); err != nil {
		return exitMount, errors.Join(err, closeRuntime(rt))
	}
	mount, err := ctl.Serve(rt, opt.mount)
	if err != nil {
		return exitMount, errors.Join(err, closeRuntime(rt))
	}
	listener.serve(ctl, reg)
	// The kernel has had its answer to INIT by now: the mount answers.
	notify(log, daemon.SdNotifyReady)
	log.WithFields(logrus.Fields{"op": "ready", "mount": opt.mount, "state_dir": opt.state, "boxes": len(rt.Boxes())}).Info(version)
	rt.Autostart()

	unmounted := make(chan struct{})
	go func() { mount.Wait(); close(unmounted) }()
	for {
		select {
		case <-unmounted:
			ctl.Close()
			return exitMount, errors.Join(fmt.Errorf("%s was unmounted or aborted by somebody else", opt.mount), mount.Unmount(), closeRuntime(rt))
		case s := <-signals:
			if s == syscall.SIGUSR1 {
				if err := pprof.Lookup("goroutine").WriteTo(log.Logger.Out, 2); err != nil {
					log.WithError(err).WithField("op", "dump").Warn("goroutines not dumped")
				}
				continue
			}
			log.WithFields(logrus.Fields{"op": "shutdown", "signal": s.String()}).Info("shutting down")
			notify(log, daemon.SdNotifyStopping)
			ctl.Close()
			err := errors.Join(mount.Unmount(), closeRuntime(rt))
			if err != nil {
				return exitOther, err
			}
			return exitOK, nil
		}
	}
}

// endSignals are the signals that end the daemon. Whoever started it with SIGHUP or
// SIGINT ignored (nohup, the & of a shell script) wants it to outlive the terminal:
// Notify would take these signals again.
func endSignals() []os.Signal {
	ends := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if !signal.Ignored(s) {
			ends = append(ends, s)
		}
	}
	return ends
}

// notify tells the service manager, if there is one.
func notify(log *logrus.Entry, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.WithError(err).WithField("op", "sd_notify").Warn("service manager not told")
	}
}

func closeRuntime(rt *runtime.Runtime) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownBound)
	defer cancel()
	return rt.Close(ctx)
}
