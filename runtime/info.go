package runtime

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// Info is all that is known of a box, as info.json shows it. It repeats no value
// of env: those may be secrets.
type Info struct {
	Name          string        `json:"name"`
	Status        status.Status `json:"status"`
	Detail        *string       `json:"detail"` // what a start waits for
	Health        status.Health `json:"health"`
	PID           int           `json:"pid"`
	ExitCode      int           `json:"exit_code"`
	LastError     string        `json:"last_error"`
	Runs          int           `json:"runs"`
	Created       time.Time     `json:"created"`
	Started       *time.Time    `json:"started"`
	Ended         *time.Time    `json:"ended"`
	OOMKills      uint64        `json:"oom_kills"`
	Restarts      int           `json:"restarts"`
	RestartAt     *time.Time    `json:"restart_at"`
	ConfigPending bool          `json:"config_pending"`
	FirstID       *uint32       `json:"first_id"` // of the host, of the box's containers
	Probe         *ProbeInfo    `json:"probe"`
	Execs         ExecsInfo     `json:"execs"`
	Effective     *Effective    `json:"effective"` // of the last container; null for engine host
	Config        *ConfigInfo   `json:"config"`
}

// ConfigInfo is the configuration with its defaults filled in: that of the
// running process if there is one, else of the next start.
type ConfigInfo struct {
	Command      []string          `json:"command"`
	EnvNames     []string          `json:"env_names"`
	Workdir      string            `json:"workdir"`
	User         string            `json:"user"`
	Engine       string            `json:"engine"`
	Image        *string           `json:"image"`
	Pull         *string           `json:"pull"`       // null without an image
	Entrypoint   []string          `json:"entrypoint"` // null: that of the image
	Rootfs       *string           `json:"rootfs"`
	Overlay      bool              `json:"overlay"`
	Init         bool              `json:"init"`
	Runtime      *string           `json:"runtime"` // null: the first that is there
	Hostname     string            `json:"hostname"`
	Network      string            `json:"network"`
	Mounts       []MountInfo       `json:"mounts"`
	Resources    ResourcesInfo     `json:"resources"`
	Rlimits      map[string]any    `json:"rlimits"`          // a number, or "unlimited"
	Profile      *string           `json:"security_profile"` // null for engine host
	NoNewPrivs   bool              `json:"no_new_privileges"`
	ReadonlyRoot bool              `json:"readonly_rootfs"`
	CapAdd       []string          `json:"capabilities_add"`
	CapDrop      []string          `json:"capabilities_drop"`
	HealthCheck  HealthInfo        `json:"health_check"`
	Restart      RestartInfo       `json:"restart"`
	Expire       ExpireInfo        `json:"expire"`
	StopSignal   string            `json:"stop_signal"`
	StopTimeout  string            `json:"stop_timeout"`
	Autostart    bool              `json:"autostart"`
	RemoveOnExit bool              `json:"remove_on_exit"`
	Detach       bool              `json:"detach"`
	LogMaxSize   int64             `json:"log_max_size"`
	Labels       map[string]string `json:"labels"`
}

// ResourcesInfo is the resources of a ConfigInfo; what is not limited is null.
type ResourcesInfo struct {
	CPUs   *float64 `json:"cpus"`
	Memory *int64   `json:"memory"`
	Pids   *int64   `json:"pids"`
}

// HealthInfo is the health_check of a ConfigInfo.
type HealthInfo struct {
	Disabled    bool     `json:"disabled"`
	Command     []string `json:"command"`
	TCP         *uint16  `json:"tcp"`
	HTTP        *string  `json:"http"`
	Interval    string   `json:"interval"`
	Timeout     string   `json:"timeout"`
	Retries     int      `json:"retries"`
	StartPeriod string   `json:"start_period"`
	OnUnhealthy string   `json:"on_unhealthy"`
}

// RestartInfo is the restart of a ConfigInfo.
type RestartInfo struct {
	Policy     string `json:"policy"`
	MaxRetries *int   `json:"max_retries"`
}

// ExpireInfo is the expire of a ConfigInfo.
type ExpireInfo struct {
	After *string `json:"after"`
	Idle  *string `json:"idle"`
}

// ProbeInfo is the last probe of a run.
type ProbeInfo struct {
	Kind       string    `json:"kind"`
	Time       time.Time `json:"time"`
	Healthy    bool      `json:"healthy"`
	ExitCode   int       `json:"exit_code"`
	TimedOut   bool      `json:"timed_out"`
	DurationMs float64   `json:"duration_ms"`
	Reason     string    `json:"reason"`
	Output     string    `json:"output"`
}

// ExecsInfo counts the execs of a box.
type ExecsInfo struct {
	Running int `json:"running"`
	Total   int `json:"total"`
}

// MountInfo is one mount of a ConfigInfo.
type MountInfo struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Readonly bool   `json:"readonly"`
}

// infoState is all that a box's Info is made of.
type infoState struct {
	next           <-chan struct{} // tells snapshots apart, and keeps none
	probe          *ProbeReport
	firstID        uint32
	running, total int // execs
}

// infoState returns the state in which the box is now, with that snapshot.
func (b *Box) infoState(s *Snapshot) infoState {
	st := infoState{next: s.next, firstID: b.firstID.Load()}
	st.running, st.total = b.execsActive()
	if s.run != nil {
		st.probe = s.run.probe.Load()
	}
	return st
}

// InfoText returns Info as JSON.
func (b *Box) InfoText(s *Snapshot) *Text {
	st := b.infoState(s)
	return b.infos.of(st, func() []byte { return indented(b.info(s, st)) })
}

// indented writes a value as the JSON of a file.
func indented(v any) []byte {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		// Strings, numbers and times: a bug, and not one to hide.
		panic("info.json: " + err.Error())
	}
	return append(visible(text), '\n')
}

// visible escapes what JSON lets through and a terminal may obey: DEL, and the controls
// U+0080 to U+009F. In JSON they are in strings alone.
func visible(text []byte) []byte {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == 0xc2 && i+1 < len(text) && text[i+1] < 0xa0 { // the UTF-8 of U+0080 and on
			i++
			c = text[i]
		} else if c != 0x7f {
			out = append(out, c)
			continue
		}
		out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
	}
	return out
}

// Info returns what the snapshot knows of the box.
func (b *Box) Info(s *Snapshot) Info { return b.info(s, b.infoState(s)) }

func (b *Box) info(s *Snapshot, st infoState) Info {
	i := Info{
		Name: b.name, Status: s.Status, Detail: unlessZero(s.Detail), Health: s.Health, PID: s.PID, ExitCode: s.ExitCode, LastError: s.LastError,
		Runs: s.Runs, Created: s.Created.UTC(), Started: stamp(s.Started), Ended: stamp(s.Ended), OOMKills: s.OOMKills, ConfigPending: s.Pending,
		Restarts: s.Restarts, RestartAt: stamp(s.RestartAt), FirstID: unlessZero(st.firstID),
	}
	if s.effective != nil {
		e := *s.effective
		i.Effective = &e
	}
	i.Execs.Running, i.Execs.Total = st.running, st.total
	if p := st.probe; p != nil {
		i.Probe = &ProbeInfo{
			Kind: p.Kind, Time: p.At.UTC(), Healthy: p.Healthy, ExitCode: p.ExitCode, TimedOut: p.TimedOut,
			DurationMs: float64(p.Took.Microseconds()) / 1000, Reason: p.Reason, Output: strings.ToValidUTF8(string(p.Output), "\uFFFD"),
		}
	}
	c := s.Config
	// These hold at once, whatever runs.
	labels, res := map[string]string{}, cgroup.Limits{}
	if c != nil {
		labels, res = c.Labels, b.rt.groups.InForce(cgroup.Limits(c.Resources))
	}
	if r, going := s.Run(); going {
		c = r.r.cfg
	}
	if c == nil {
		return i
	}
	i.Config = &ConfigInfo{
		Command: orEmpty(c.Command), EnvNames: make([]string, 0, len(c.Env)), Workdir: c.Workdir, User: c.User, Engine: c.Engine,
		Hostname: c.Hostname, Network: c.Network, Mounts: make([]MountInfo, 0, len(c.Mounts)), Rlimits: map[string]any{},
		Resources: ResourcesInfo{CPUs: unlessZero(res.CPUs), Memory: unlessZero(res.Memory), Pids: unlessZero(res.Pids)},
		Image:     unlessZero(c.Image), Entrypoint: c.Entrypoint, Rootfs: unlessZero(c.Rootfs), Overlay: c.Overlay && c.Engine == config.EngineContainer, Init: c.Init && c.Engine == config.EngineContainer, Runtime: unlessZero(c.Runtime),
		Profile:    unlessZero(profileOf(c)),
		NoNewPrivs: c.Security.NoNewPrivileges, ReadonlyRoot: c.Security.ReadonlyRootfs,
		CapAdd: orEmpty(c.Security.Capabilities.Add), CapDrop: orEmpty(c.Security.Capabilities.Drop),
		HealthCheck: HealthInfo{
			Disabled: c.Health.Disabled, Command: orEmpty(c.Health.Command), TCP: unlessZero(c.Health.TCP), HTTP: unlessZero(c.Health.HTTP),
			Interval: c.Health.Interval.String(), Timeout: c.Health.Timeout.String(), Retries: c.Health.Retries,
			StartPeriod: c.Health.StartPeriod.String(), OnUnhealthy: c.Health.OnUnhealthy,
		},
		Restart:    RestartInfo{Policy: c.Restart.Policy, MaxRetries: unlessZero(c.Restart.MaxRetries)},
		Expire:     ExpireInfo{After: duration(c.Expire.After), Idle: duration(c.Expire.Idle)},
		StopSignal: config.SignalName(c.Stop.SignalFor("")), StopTimeout: c.Stop.Timeout.String(),
		Autostart: c.Autostart, RemoveOnExit: c.RemoveOnExit, Detach: c.Detach, LogMaxSize: c.Log.MaxSize, Labels: labels,
	}
	if c.Image != "" {
		i.Config.Pull = &c.Pull
	}
	for name := range c.Env {
		i.Config.EnvNames = append(i.Config.EnvNames, name)
	}
	slices.Sort(i.Config.EnvNames)
	for name, l := range c.Rlimits {
		i.Config.Rlimits[name] = l.Soft
		if l.Soft == config.RlimitInfinity {
			i.Config.Rlimits[name] = "unlimited"
		}
	}
	for _, m := range c.Mounts {
		i.Config.Mounts = append(i.Config.Mounts, MountInfo{Source: m.Source, Target: m.Target, Readonly: m.ReadOnly})
	}
	return i
}

func unlessZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func duration(d time.Duration) *string {
	if d == 0 {
		return nil
	}
	s := d.String()
	return &s
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
