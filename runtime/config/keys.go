package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// config decodes the tree of a config.yaml. What a prefix lacks may still come, and is no fault.
func (d *decoder) config(doc document, prefix bool) {
	if doc.extra != 0 {
		d.failAt(doc.extra, "", `only one document is allowed: remove the line "---"`)
	}
	const example = "command: [sleep, \"60\"]"
	if doc.root == nil {
		if !prefix {
			d.failAt(1, "", "the config is empty: it needs at least a command, like "+example)
		}
		return
	}
	s := newSpot(doc.root, "", prefix)
	if !d.plainNode(s) || s.unsettled() {
		return
	}
	if isNull(s.node) {
		d.fail(s, "the config is empty: it needs at least a command, like %s", example)
		return
	}
	if s.node.Kind != yaml.MappingNode {
		d.fail(s, "the config must be a map of keys, like %s, not %s", example, kindOf(s.node))
		return
	}
	given := d.fields(s, "", d.keys())
	if s.open {
		return
	}
	d.settleEngine(s.node.Line, given)
	// An image may say itself what it runs.
	if !given["command"] && !given["image"] {
		d.failAt(s.node.Line, "command", "command is missing: add what the box runs, like "+example)
	}
}

// keys are the keys that a config.yaml may have. The manual, boxlite.yaml(5), has a
// paragraph for each.
func (d *decoder) keys() []field {
	c := d.cfg
	return []field{
		{"command", d.command(&c.Command, `[sleep, "60"]`)},
		{"env", d.env},
		{"workdir", func(s spot) { d.word(s, "an absolute path, like /srv", setPath(&c.Workdir)) }},
		{"user", func(s spot) { d.word(s, `a user, like nobody or "1000:1000"`, setUser(&c.User)) }},
		{"engine", func(s spot) { d.word(s, "an engine, like host or container", setEngine(&c.Engine)) }},
		{"image", func(s spot) {
			d.word(s, "an image, like docker://docker.io/library/alpine:3", setImage(&c.Image))
		}},
		{"pull", func(s spot) {
			d.word(s, "missing, newer or always", setChoice(&c.Pull, PullMissing, PullNewer, PullAlways))
		}},
		{"rootfs", func(s spot) { d.word(s, "an absolute path, like /srv/rootfs", setPath(&c.Rootfs)) }},
		{"overlay", func(s spot) { d.flag(s, &c.Overlay) }},
		{"init", func(s spot) { d.flag(s, &c.Init) }},
		{"entrypoint", d.entrypoint},
		{"runtime", func(s spot) { d.word(s, "crun or runc", setChoice(&c.Runtime, Runtimes...)) }},
		{"hostname", func(s spot) { d.word(s, "a host name, like web-1", setHostname(&c.Hostname)) }},
		{"network", func(s spot) { d.word(s, "host or none", setChoice(&c.Network, "host", "none")) }},
		{"mounts", d.mounts},
		{"resources", d.resources},
		{"rlimits", d.rlimits},
		{"security", d.security},
		{"health_check", d.health},
		{"restart", d.restart},
		{"stop", d.stop},
		{"autostart", func(s spot) { d.flag(s, &c.Autostart) }},
		{"remove_on_exit", func(s spot) { d.flag(s, &c.RemoveOnExit) }},
		{"expire", d.expire},
		{"detach", func(s spot) { d.flag(s, &c.Detach) }},
		{"log", d.log},
		{"labels", d.labels},
	}
}

// settleEngine fills in the defaults that depend on the engine, and refuses what does
// not go together.
func (d *decoder) settleEngine(line int, given map[string]bool) {
	c := d.cfg
	rooted := given["image"] || given["rootfs"]
	if rooted && !given["engine"] {
		c.Engine = EngineContainer
	}
	fail := func(key, msg string) {
		d.failAt(d.seen[key], key, msg)
	}
	switch {
	case given["image"] && given["rootfs"]:
		fail("rootfs", "image and rootfs are both given: keep one")
	case c.Engine == EngineContainer && !rooted:
		fail("engine", "engine container needs a file system: add image: docker://… or rootfs: /dir")
	case c.Engine != EngineContainer:
		for _, key := range []string{"image", "pull", "rootfs", "overlay", "init", "entrypoint", "runtime"} {
			if given[key] {
				fail(key, fmt.Sprintf("%s is for engine container only: leave it or the engine out", key))
			}
		}
		if d.seen["security.profile"] != 0 {
			fail("security.profile", "security.profile is for engine container only: engine host has no_new_privileges, and capabilities to drop")
		}
		return
	case given["overlay"] && given["image"]:
		fail("overlay", "overlay is for rootfs only: an image is always shared, and its changes are the box's own")
	case given["pull"] && !given["image"]:
		fail("pull", "pull is for image only: a rootfs is used as it is")
	case given["entrypoint"] && !given["image"]:
		fail("entrypoint", "entrypoint is for image only: put all words into command")
	}
	if !given["network"] {
		c.Network = "none"
	}
	if d.seen["resources.pids"] == 0 {
		c.Resources.Pids, c.Resources.PidsByDefault = defaultPids, true
	}
	if d.seen["security.no_new_privileges"] == 0 {
		c.Security.NoNewPrivileges = c.Security.Profile == ProfileStrict
	}
	if !given["user"] {
		c.User = ""
	}
	if !given["workdir"] {
		c.Workdir = ""
	}
}

// entrypoint decodes the words that go before the command; none is an answer too.
func (d *decoder) entrypoint(s spot) {
	if s.node.Kind == yaml.SequenceNode && len(s.node.Content) == 0 {
		d.cfg.Entrypoint = []string{}
		return
	}
	d.command(&d.cfg.Entrypoint, `[/bin/sh, -c], or [] for none`)(s)
}

func (d *decoder) env(s spot) {
	check := func(name string) error {
		if strings.Contains(name, "=") {
			return fmt.Errorf("env name %q holds a \"=\": write NAME: value", showKey(name))
		}
		if hasControl(name) {
			return fmt.Errorf("env name %q holds a control character", showKey(name))
		}
		return nil
	}
	d.entries(s, "a map, like {LANG: C.UTF-8}", check, func(name string, value spot) {
		var text string
		d.text(value, `a string, like "1"`, &text)
		d.cfg.Env[name] = text
	})
}

func (d *decoder) mounts(s spot) {
	const example = "{source: /srv/www, target: /www, readonly: true}"
	targets := map[string]int{}
	d.items(s, "a list of maps, like ["+example+"]", func(item spot) {
		var m Mount
		given := d.fields(item, "a map, like "+example, []field{
			{"source", func(s spot) { d.word(s, "an absolute path, like /srv/www", setPath(&m.Source)) }},
			{"target", func(s spot) {
				d.word(s, "an absolute path, like /www", func(text string) error {
					if err := setPath(&m.Target)(text); err != nil {
						return err
					}
					if text == "/" {
						return &growError{errors.New(`"/" cannot be mounted over: name a directory below it`)}
					}
					if line, twice := targets[text]; twice {
						return &growError{fmt.Errorf("%q is mounted over already on line %d", text, line)}
					}
					targets[text] = s.node.Line
					return nil
				})
			}},
			{"readonly", func(s spot) { d.flag(s, &m.ReadOnly) }},
		})
		for _, name := range []string{"source", "target"} {
			if given != nil && !given[name] {
				d.failYet(item, "%s has no %s: write it like %s", item.key, name, example)
			}
		}
		d.cfg.Mounts = append(d.cfg.Mounts, m)
	})
}

const (
	maxCPUs = 1 << 16
	maxPids = 1 << 22 // PID_MAX_LIMIT
)

func (d *decoder) resources(s spot) {
	res := &d.cfg.Resources
	d.fields(s, "a map, like {cpus: 1.5, memory: 512MiB, pids: 1024}", []field{
		{"cpus", func(s spot) {
			d.word(s, "a number of processors, like 1.5", func(text string) (err error) {
				if !numberForm.MatchString(text) {
					return fmt.Errorf("%q is no number of processors: write it like 0.5 or 2", showKey(text))
				}
				if res.CPUs, err = strconv.ParseFloat(text, 64); err != nil || res.CPUs < 0.01 || res.CPUs > maxCPUs {
					return fmt.Errorf("%s is out of range: it goes from 0.01 to %d (leave the key out for no limit)", text, maxCPUs)
				}
				return nil
			})
		}},
		{"memory", func(s spot) {
			d.word(s, "a size, like 512MiB", setSize(&res.Memory, 1<<20, "1MiB"))
		}},
		{"pids", func(s spot) {
			d.word(s, "a number of threads, like 1024, or unlimited", func(text string) (err error) {
				if text == "unlimited" || text == "max" {
					res.Pids = 0
					return nil
				}
				if res.Pids, err = strconv.ParseInt(text, 10, 64); err != nil || res.Pids < 1 || res.Pids > maxPids {
					return fmt.Errorf("%q is out of range: write a whole number from 1 to %d, or unlimited", showKey(text), maxPids)
				}
				return nil
			})
		}},
	})
}

func (d *decoder) rlimits(s spot) {
	check := func(name string) error {
		if _, ok := RlimitNumber(name); ok {
			return nil
		}
		near := nearestWord(strings.TrimPrefix(strings.ToLower(name), "rlimit_"), rlimitNames)
		return fmt.Errorf("unknown rlimit %q%s", showKey(name), didYouMean(near, rlimitNames))
	}
	d.entries(s, "a map, like {nofile: 4096}", check, func(name string, value spot) {
		const want = "a number or unlimited, like 4096"
		n := value.node
		if n.Kind != yaml.ScalarNode || (n.Tag != "!!int" && n.Tag != "!!float" && n.Value != "unlimited") {
			d.failType(value, want)
			return
		}
		d.word(value, want, func(text string) error {
			limit := RlimitInfinity
			if text != "unlimited" {
				var err error
				if limit, err = strconv.ParseUint(text, 10, 64); err != nil {
					return fmt.Errorf("%s is no limit: write a whole number from 0 to 18446744073709551615, or unlimited", text)
				}
			}
			d.cfg.Rlimits[name] = Rlimit{Soft: limit, Hard: limit}
			return nil
		})
	})
}

func (d *decoder) security(s spot) {
	sec := &d.cfg.Security
	d.fields(s, "a map, like {no_new_privileges: true}", []field{
		{"profile", func(s spot) {
			d.word(s, "default or strict", setChoice(&sec.Profile, ProfileDefault, ProfileStrict))
		}},
		{"no_new_privileges", func(s spot) { d.flag(s, &sec.NoNewPrivileges) }},
		{"capabilities", func(s spot) {
			d.fields(s, "a map, like {drop: [ALL], add: [NET_BIND_SERVICE]}", []field{
				{"add", func(s spot) { d.capabilities(s, &sec.Capabilities.Add) }},
				{"drop", func(s spot) { d.capabilities(s, &sec.Capabilities.Drop) }},
			})
		}},
		{"readonly_rootfs", func(s spot) { d.flag(s, &sec.ReadonlyRootfs) }},
	})
}

func (d *decoder) capabilities(s spot, to *[]string) {
	d.items(s, "a list of capabilities, like [NET_BIND_SERVICE]", func(item spot) {
		d.word(item, "a capability, like NET_BIND_SERVICE", func(text string) error {
			name, err := canonicalCapability(text)
			if err != nil {
				return fmt.Errorf("is an %w", err)
			}
			*to = append(*to, name)
			return nil
		})
	})
}

func (d *decoder) stop(s spot) {
	stop := &d.cfg.Stop
	d.fields(s, "a map, like {signal: SIGTERM, timeout: 10s}", []field{
		{"signal", func(s spot) {
			d.word(s, "a signal, like SIGTERM", func(text string) (err error) {
				if stop.Signal, err = ParseSignal(text); err != nil {
					return fmt.Errorf("is an %w", err)
				}
				return nil
			})
		}},
		{"timeout", func(s spot) { d.word(s, "a duration, like 10s", setDuration(&stop.Timeout)) }},
	})
}

// The bounds of what is timed: less would be all that the daemon does, and a year is
// as good as never.
const (
	minTime = 10 * time.Millisecond
	maxTime = 365 * 24 * time.Hour
)

func (d *decoder) health(s spot) {
	h := &d.cfg.Health
	probe := func(to *time.Duration) func(spot) {
		return func(s spot) {
			d.word(s, "a duration, like 30s", setDurationIn(to, minTime, maxTime))
		}
	}
	given := d.fields(s, "a map, like {interval: 30s} or {disabled: true}", []field{
		{"disabled", func(s spot) { d.flag(s, &h.Disabled) }},
		{"command", d.command(&h.Command, "[curl, -fsS, localhost]")},
		{"tcp", func(s spot) {
			d.word(s, "a port, like 8080", func(text string) error {
				port, err := strconv.ParseUint(text, 10, 16)
				if err != nil || port == 0 {
					return fmt.Errorf("%q is no port: write a whole number from 1 to 65535", showKey(text))
				}
				h.TCP = uint16(port)
				return nil
			})
		}},
		{"http", func(s spot) { d.word(s, "a URL, like http://localhost:8080/health", setURL(&h.HTTP)) }},
		{"interval", probe(&h.Interval)},
		{"timeout", probe(&h.Timeout)},
		{"retries", func(s spot) {
			d.word(s, "a number, like 3", setCount(&h.Retries, 1, 1000))
		}},
		{"start_period", func(s spot) { d.word(s, "a duration, like 60s", setDuration(&h.StartPeriod)) }},
		{"on_unhealthy", func(s spot) { d.word(s, "none or restart", setChoice(&h.OnUnhealthy, "none", "restart")) }},
	})
	first := ""
	for _, kind := range []string{"command", "tcp", "http"} {
		switch {
		case !given[kind]:
		case first != "":
			d.fail(s, "health_check has both %s and %s: a probe is one of command, tcp and http", first, kind)
		default:
			first = kind
		}
	}
}

func (d *decoder) restart(s spot) {
	r := &d.cfg.Restart
	given := d.fields(s, "a map, like {policy: always}", []field{
		{"policy", func(s spot) {
			d.word(s, "a policy, like on-failure", setChoice(&r.Policy, RestartNo, RestartAlways, RestartOnFailure, RestartUnlessStopped))
		}},
		{"max_retries", func(s spot) { d.word(s, "a number, like 5", setCount(&r.MaxRetries, 1, 1<<30)) }},
	})
	if given["max_retries"] && r.Policy != RestartOnFailure {
		d.failYet(s, "restart.max_retries goes with policy on-failure only")
	}
}

func (d *decoder) expire(s spot) {
	e := &d.cfg.Expire
	least := func(to *time.Duration) func(spot) {
		return func(s spot) {
			d.word(s, "a duration, like 1h", setDurationIn(to, minTime, maxTime))
		}
	}
	d.fields(s, "a map, like {after: 1h, idle: 15m}", []field{
		{"after", least(&e.After)},
		{"idle", least(&e.Idle)},
	})
}

func (d *decoder) log(s spot) {
	d.fields(s, "a map, like {max_size: 10MiB}", []field{
		{"max_size", func(s spot) {
			d.word(s, "a size, like 10MiB", setSize(&d.cfg.Log.MaxSize, 4<<10, "4KiB"))
		}},
	})
}

var labelForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_./-]{0,62}$`)

const maxLabel = 256

func (d *decoder) labels(s spot) {
	check := func(name string) error {
		if !labelForm.MatchString(name) {
			return fmt.Errorf("label %q is no valid name: use up to 63 of a-z A-Z 0-9 _ . / -, a letter or digit first", showKey(name))
		}
		return nil
	}
	d.entries(s, "a map, like {team: web}", check, func(name string, value spot) {
		d.word(value, "a string, like web", func(text string) error {
			if hasControl(text) {
				return errors.New("holds a control character: a label is one line of text")
			}
			if len(text) > maxLabel {
				return fmt.Errorf("is %d bytes long, the limit is %d", len(text), maxLabel)
			}
			d.cfg.Labels[name] = text
			return nil
		})
	})
}
