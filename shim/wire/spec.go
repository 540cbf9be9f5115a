package wire

import "syscall"

// Spec is everything a shim must know to run one box once. The daemon resolves
// names (users, capabilities, rlimits) before, so that the shim needs no lookup
// beyond the command's own PATH search.
type Spec struct {
	// Box is the box's name. It is used in messages only.
	Box string
	// Run identifies this run. The exit record repeats it, so that a record of
	// an earlier run is never taken for this one's.
	Run string
	// Argv is the command and its arguments. Argv[0] is looked up in the box's
	// own PATH (from Env) when it has no slash.
	Argv []string
	// Env is the whole environment of the command, as KEY=VALUE.
	Env []string
	// Workdir is the absolute directory the command starts in.
	Workdir string
	// UID, GID and Groups are the command's credentials.
	UID, GID uint32
	Groups   []uint32
	// Hostname is set in the box's UTS namespace.
	Hostname string
	// PrivateNet says that the shim was started in a network namespace of its
	// own, whose loopback it has to bring up.
	PrivateNet bool
	// Mounts are bind mounts, made in order.
	Mounts []Mount
	// Mask lists directories that the box must not see (the control filesystem,
	// the state directory), by absolute paths without symbolic links: each is
	// covered with an empty read-only tmpfs, and never looked into. One that does
	// not exist is passed over.
	Mask []string
	// ReadonlyRoot makes every mount of the box read-only but /dev, /proc and
	// those Mounts that are not ReadOnly themselves.
	ReadonlyRoot bool
	// Rlimits are set on the command only. Without one for nofile it gets the
	// kernel's default soft limit of 1,024.
	Rlimits []Rlimit
	// NoNewPrivs sets PR_SET_NO_NEW_PRIVS on the command.
	NoNewPrivs bool
	// Capabilities is the set (bit N is capability N) that the command keeps:
	// its bounding set, and what root has. CapAmbient is the part of it that a
	// command of another user gets as ambient capabilities. What the shim itself
	// does not have cannot be given, and is left out.
	Capabilities, CapAmbient uint64
	// StopSignal is sent to the command by a stop, and StopGraceNs is the time
	// in nanoseconds that a SIGTERM of the shim itself leaves it before SIGKILL.
	StopSignal  syscall.Signal
	StopGraceNs int64
	// LogMax bounds one log file in bytes; when it is full a new one is begun
	// and all but the one before it are removed. At least MinLogMax. See LogName.
	LogMax int64
	// OOMScore is the command's oom_score_adj, not negative. Where the shim cannot have the
	// least there is, the command is ranked behind it all the same.
	OOMScore int
	// DieWithDaemon ends the box when the daemon's end of the hold pipe closes.
	DieWithDaemon bool
	// Cgroups are the files that the command writes itself into before anything
	// else, by absolute paths on the host: the tasks file of each v1 hierarchy, or
	// cgroup.procs of v2. The shim itself stays outside: it is not frozen,
	// throttled or counted with the box.
	Cgroups []string
	// Freezer is the file, and Thaw what is written into it, that thaws the
	// box's cgroup; empty where there is none.
	Freezer, Thaw string
	// Probe is what LineProbe runs.
	Probe Probe
	// Container makes the box a container: an OCI runtime runs the command, as its
	// configuration says, and Argv is a name for it only. What that configuration
	// has of its own (Env, Workdir, Groups, PrivateNet, ReadonlyRoot, Rlimits,
	// NoNewPrivs, Capabilities) is not looked at here. UID and GID are the host's.
	Container *Container
}

// Container is how an OCI runtime runs a box. All that is made for it (mounts, the
// bundle, the runtime's state) is in the shim's own mount namespace and goes with it.
type Container struct {
	// Runtime is the absolute path of the runtime and its global options.
	Runtime []string
	// Config is the config.json of the bundle. Its paths are those of the constants
	// and functions below.
	Config []byte
	// Layers are the directories that the root is made of, by absolute paths, the
	// uppermost first: at least one.
	Layers []string
	// Upper is the absolute path of where the changes go: it has the directories
	// "upper" and "work". Empty means that the only layer is the root
	// itself and is changed.
	Upper string
	// Files are made for the container; see ContainerFile.
	Files []File
	// FirstID is the host's id that is 0 in the container, and IDs their number.
	FirstID, IDs uint32
	// Owner is the user of the host that owns the container's user namespace: what the
	// kernel counts of a user (inotify instances, queued signals) it counts of this one
	// too, and one container must not use up all that the host's root may have.
	Owner uint32
	// Init gives the container an init of the shim's for its pid 1. Config then takes the
	// pid namespace from PIDNamespace, and with PrivateNet, which says that the container has
	// a network namespace of its own, that from NetworkNamespace. Without an init the command
	// is pid 1, and Config has the runtime make both.
	Init, PrivateNet bool
	// Probe is the process of a ProbeCommand, as the JSON of the runtime.
	Probe []byte
	// Detach lists mount points (of cgroup hierarchies) that the runtime is not to
	// see.
	Detach []string
}

// File is a small file that is made for a container.
type File struct {
	Name string
	Data []byte
}

// ProbeKind says how a box is probed.
type ProbeKind uint8

const (
	// ProbeNone is no probe: LineProbe is refused.
	ProbeNone ProbeKind = iota
	// ProbeCommand runs Argv in the box as the command was run: the same user,
	// environment, limits, capabilities, working directory and cgroups, its stdin
	// /dev/null, in a session of its own. It is over when that process has ended;
	// then, or at the timeout, all that is left of its process group is killed.
	ProbeCommand
	// ProbeTCP connects to Addr and Port in the box's network.
	ProbeTCP
	// ProbeHTTP connects, sends Request, and takes a status of 200 to 399 for
	// healthy. A redirect is not followed.
	ProbeHTTP
)

// Probe is how the health of a box is probed.
type Probe struct {
	Kind ProbeKind
	// Argv is the command. Argv[0] is looked up as that of the box is, but by execve
	// itself, as the box's user.
	Argv []string
	// Addr is an IP address without a zone. Empty means 127.0.0.1, and ::1 when
	// nobody listens there.
	Addr string
	Port uint16
	// Request is all that an HTTP probe sends. It should ask for the connection to
	// be closed: else a body that is shorter than MaxProbeOutput is waited for a
	// little longer.
	Request string
	// TimeoutNs is how long a probe may take, in nanoseconds.
	TimeoutNs int64
}

// Mount is one bind mount of a box.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Rlimit is one resource limit, numbered as in setrlimit(2).
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// ExecDir is the directory in that of a box that has the directories of its execs, by
// their names. In each of these are:
const (
	ExecDir = "exec"
	// ExecSpecName is an encoded ExecSpec.
	ExecSpecName = "spec"
	// ExecStdin, ExecStdout and ExecStderr are FIFOs. What they have stays in them
	// while the shim has not forgotten the exec.
	ExecStdin  = "stdin"
	ExecStdout = "stdout"
	ExecStderr = "stderr"
)

// MaxExecs is how many execs a box may have at once.
const MaxExecs = 256
