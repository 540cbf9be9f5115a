// Package config parses and checks what a user writes: the config.yaml of a box (Parse) and
// the cmd of an exec (ParseExec). An Error has the line of the fault and, where that can be
// known, how to put it right. A text can be judged while it still arrives (CheckPrefix,
// CheckExecPrefix).
//
// The text alone decides. Users, images and programs are looked up when a box starts.
package config

import (
	"reflect"
	"syscall"
	"time"
)

// Config is the decoded config.yaml of a box, with every default filled in.
type Config struct {
	// Command is the program and its arguments: at least one word, the first
	// of them not empty. It may be empty where there is an Image.
	Command []string
	// Env is what the box gets besides PATH and HOME. Its values may be
	// secrets: they appear in no error, event or log.
	Env map[string]string
	// Workdir is the absolute, clean directory that the command starts in; empty in a
	// container: that of the image, or /.
	Workdir string
	// User is a name or uid, with ":" and a group's name or gid after it or
	// not. Names are looked up when the box starts, not here. Empty in a container:
	// that of the image, or root.
	User string
	// Engine is what runs the box: EngineHost or EngineContainer.
	Engine string
	// Image is the reference of the image that a container is made from, or empty.
	// See image.ParseRef.
	Image string
	// Pull says when the image is asked for where it comes from: one of the Pull
	// constants.
	Pull string
	// Rootfs is the directory that a container has for a root, or empty. With
	// Overlay it is not changed: what the container writes is the box's own.
	Rootfs  string
	Overlay bool
	// Init gives a container an init of boxlite's for its pid 1; without it that is the command.
	Init bool
	// Entrypoint are the words before the command, instead of those of the image;
	// nil leaves these.
	Entrypoint []string
	// Runtime is the name of the OCI runtime that is to be used, or empty.
	Runtime string
	// Hostname is the box's host name; by default the box's name.
	Hostname string
	// Network is "host" or "none".
	Network string
	// Mounts are made in order. No target appears twice.
	Mounts []Mount
	// Resources limits what all processes of the box use together.
	Resources Resources
	// Rlimits holds the limits by name (see RlimitNumber), "nofile" always.
	Rlimits map[string]Rlimit
	// Security restricts the command.
	Security Security
	// Health says how it is found out whether the box still does its work.
	Health HealthCheck
	// Restart says when the box is started again after it has ended.
	Restart Restart
	// Expire bounds how long a run may go on.
	Expire Expire
	// Stop says how the box is asked to end.
	Stop Stop
	// Autostart starts the box on the commit of its first config and whenever
	// the daemon starts.
	Autostart bool
	// RemoveOnExit removes the box when its run has ended.
	RemoveOnExit bool
	// Detach lets the box outlive the daemon.
	Detach bool
	// Log bounds what is kept of the box's output.
	Log Log
	// Labels are the user's own notes, shown in info.json.
	Labels map[string]string
}

// Mount is one bind mount. Both paths are absolute and clean.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Rlimit is a resource limit in the unit of setrlimit(2), or RlimitInfinity.
type Rlimit struct {
	Soft, Hard uint64
}

// Resources limits what all processes of a box use together; 0 is no limit.
type Resources struct {
	// CPUs is how many processors they may keep busy.
	CPUs float64
	// Memory is in bytes. What is over it is reclaimed or killed; none of it is
	// swapped out where the kernel counts swap.
	Memory int64
	// Pids is the number of threads there may be. A process has at least one.
	Pids int64
	// PidsByDefault says that Pids is a default. A host without such a limit then runs the
	// box without it.
	PidsByDefault bool
}

// defaultPids bounds the threads of a container that does not say how many it may have.
const defaultPids = 4096

// Security restricts what a box's command may do.
type Security struct {
	// Profile is what a container has to begin with: ProfileDefault or ProfileStrict.
	Profile string
	// NoNewPrivileges keeps set-uid programs and file capabilities from
	// giving the command more than it has.
	NoNewPrivileges bool
	// Capabilities changes the set of capabilities.
	Capabilities Capabilities
	// ReadonlyRootfs makes the box's view of the file system read-only.
	ReadonlyRootfs bool
}

// HealthCheck says how it is found out whether a box still does its work. At most one of
// Command, TCP and HTTP is set. Without them a probe is a ping: the shim answers it while
// the command is alive.
type HealthCheck struct {
	// Disabled turns the checks off, whatever else is set.
	Disabled bool
	// Command is run inside the box; it is healthy if it exits with 0.
	Command []string
	// TCP is a port of the box's loopback that takes connections; 0 is none.
	TCP uint16
	// HTTP is a URL of the box's loopback, or of a literal address, that answers
	// with a status from 200 to 399.
	HTTP string
	// Interval is the time from one probe to the next, Timeout what one may take.
	Interval, Timeout time.Duration
	// Retries is how many failures in a row make the box unhealthy.
	Retries int
	// StartPeriod is how long after the start failures do not count, unless a
	// probe has succeeded.
	StartPeriod time.Duration
	// OnUnhealthy is what is done about an unhealthy box: "none" or "restart".
	OnUnhealthy string
}

// The profiles of a container.
const (
	// ProfileDefault is what Docker gives a container: its capabilities, and no
	// no_new_privileges. It is what official images are made for.
	ProfileDefault = "default"
	// ProfileStrict is the least.
	ProfileStrict = "strict"
)

// The engines.
const (
	// EngineHost runs a command on the host's files.
	EngineHost = "host"
	// EngineContainer runs a command on files of its own, by an OCI runtime.
	EngineContainer = "container"
)

// The restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"
	RestartOnFailure     = "on-failure"
	RestartUnlessStopped = "unless-stopped"
)

// Restart says when a box that has ended unasked is started again.
type Restart struct {
	// Policy is one of the Restart constants.
	Policy string
	// MaxRetries is how often in a row on-failure tries it; 0 is without end.
	MaxRetries int
}

// Expire bounds how long a run of a box may go on; 0 is no bound. What has
// expired is stopped.
type Expire struct {
	// After is counted from the start of the run.
	After time.Duration
	// Idle is counted from the last command to the box, end of an exec, or touch of its
	// directory. While an exec runs it is not counted.
	Idle time.Duration
}

// Stop says how a box is asked to end before it is killed.
type Stop struct {
	// Signal is what the command gets first; 0 is what its image says, or SIGTERM.
	Signal syscall.Signal
	// Timeout is how long it then has before SIGKILL; 0 is no time at all.
	Timeout time.Duration
}

// Log bounds what is kept of a box's output.
type Log struct {
	// MaxSize is the size in bytes at which the log file is rotated.
	MaxSize int64
}

// When a start asks for the image where it comes from.
const (
	PullMissing = "missing" // if its reference is not known
	PullNewer   = "newer"   // always, but the image that is known will do
	PullAlways  = "always"  // always, and fails if that does
)

// RunsLike reports whether a process started with c is what o asks for: they differ at most
// in Labels and Resources, which take effect at once.
func (c *Config) RunsLike(o *Config) bool {
	x, y := *c, *o
	x.Labels, y.Labels = nil, nil
	x.Resources, y.Resources = Resources{}, Resources{}
	return reflect.DeepEqual(x, y)
}

// Runtimes are the OCI runtimes that can run a container, the first choice first:
// crun starts in a fraction of the time.
var Runtimes = []string{"crun", "runc"}
