module github.com/boxlitefs/boxlite

go 1.26.0

require (
	github.com/agnivade/levenshtein v1.2.2 // "did you mean": small, no dependencies, right with runes; texttheater/golang-levenshtein works on edit scripts that are not needed
	github.com/containerd/containerd/v2 v2.2.9 // pkg/archive unpacks layers: 11 packages with all that it needs, against 20 of moby/go-archive and 79 of umoci, which is the strictest but brings protobuf, go-mtree and a logger of its own; it leaves devices, owners and limits to a filter, and whiteouts to a function, which are here; 2.2, since newer ones ask for a newer Go
	github.com/coreos/go-systemd/v22 v22.7.0 // sd_notify, by those who define it; only its package daemon, which imports nothing
	github.com/docker/docker-credential-helpers v0.9.3 // the protocol of credential helpers, by those who define it; go-containerregistry brings it along, but its own keychain reads the file of the user's home only, and takes a helper's failure for "no credentials"
	github.com/dustin/go-humanize v1.1.0 // sizes: it tells MB from MiB, which docker/go-units does not
	github.com/elastic/go-seccomp-bpf v1.6.0 // compiles the seccomp filter of the unpacker by names, in Go: libseccomp's binding needs cgo, and by hand it would be a table of numbers for each architecture
	github.com/google/go-containerregistry v0.22.1 // registries (tokens, challenges), references, manifests, layouts, and the tests' own registry; with what it needs it adds 1.4 MB to the binary and 1.8 MB to the daemon's RSS, together with containerd's archive and compress
	github.com/hanwen/go-fuse/v2 v2.12.1 // the FUSE protocol: the fastest kept Go implementation, with notifications, interrupts and readdirplus
	github.com/klauspost/compress v1.20.1 // zstd, which the standard library has not, and gzip at twice the speed
	github.com/klauspost/cpuid/v2 v2.4.2 // which level of amd64 the processor has: x/sys/cpu does not tell of LZCNT, MOVBE and F16C, which v3 asks for
	github.com/moby/profiles/seccomp v0.3.0 // the seccomp profile that Docker keeps up, with what each capability adds; containers/common's is a copy of it that brings far more along
	github.com/opencontainers/cgroups v0.1.0 // limits, freezer and counters on v1 and v2: runc's own code; containerd/cgroups/v3 does the same, but a program that uses both of its versions is 10.2 MB against 4.5, for eBPF and protobuf that are not needed
	github.com/opencontainers/runtime-spec v1.3.0 // the types of an OCI runtime's config.json, by those who define it
	github.com/prometheus/client_golang v1.25.0 // the metrics, their text format and HTTP: Prometheus' own; VictoriaMetrics/metrics is much smaller, but gives no help texts and checks neither names nor labels, and text by hand would need all of its escaping and histograms again; it doubles the binary (8.5 to 16.3 MB: net/http and protobuf), and adds 4.6 MB to the daemon's RSS, nearly all of it pages of that file
	github.com/prometheus/client_model v0.6.3 // the form in which client_golang gathers: a box's labels are put on its series in it, and scrapes are kept as that
	github.com/prometheus/common v0.72.0 // expfmt: the text format of what was gathered; client_golang has it already
	github.com/sirupsen/logrus v1.10.2 // structured logs as text or JSON
	golang.org/x/net v0.59.0 // netutil.LimitListener: no more than so many connections to --metrics-listen; one file, without the rest of the module
	golang.org/x/sync v0.22.0 // errgroup: a few layers at once, until one fails
	golang.org/x/sys v0.49.0 // system calls that package syscall lacks: pidfds, the mount API, capabilities; all that the shim links
	gopkg.in/yaml.v3 v3.0.1 // the one YAML decoder for Go that gives nodes with lines, which the errors need
)

require (
	github.com/Microsoft/go-winio v0.6.2 // indirect
	github.com/Microsoft/hcsshim v0.14.1 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/containerd/cgroups/v3 v3.1.2 // indirect
	github.com/containerd/continuity v0.4.5 // indirect
	github.com/containerd/errdefs v1.0.0 // indirect
	github.com/containerd/errdefs/pkg v0.3.0 // indirect
	github.com/containerd/log v0.1.0 // indirect
	github.com/containerd/typeurl/v2 v2.2.3 // indirect
	github.com/cyphar/filepath-securejoin v0.5.1 // indirect
	github.com/docker/cli v29.7.2+incompatible // indirect
	github.com/godbus/dbus/v5 v5.1.0 // indirect
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/golang/groupcache v0.0.0-20241129210726-2c02b8208cf8 // indirect
	github.com/moby/sys/mountinfo v0.7.2 // indirect
	github.com/moby/sys/sequential v0.6.0 // indirect
	github.com/moby/sys/userns v0.1.0 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	go.opencensus.io v0.24.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20251029180050-ab9386a59fda // indirect
	google.golang.org/grpc v1.78.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	gotest.tools/v3 v3.5.2 // indirect
)
