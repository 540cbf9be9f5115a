package runtime

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/boxlitefs/boxlite/runtime/image"
)

// configSpot is one value of the tree and where it is.
type configSpot struct {
	node *yaml.Node
	// key is the path from the root, like "stop.signal".
	key string
	// open says that the text is a prefix and its continuation may still change
	// this value: an empty one may become anything, a plain scalar may get more
	// words on the next line, a list or map more items. Only the last value of
	// each collection, from the root down, can be open.
	open bool
}

// newConfigSpot makes the spot of a child of a collection that is open or not.
func newConfigSpot(n *yaml.Node, key string, open bool) configSpot {
	const closed = yaml.FlowStyle | yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle
	if n.Style&closed != 0 {
		open = false
	}
	return configSpot{node: n, key: key, open: open}
}

// child is the path of a key of this map.
func (s configSpot) child(name string) string {
	if s.key == "" {
		return name
	}
	return s.key + "." + name
}

// unsettled reports whether nothing can be said of the value yet: it is empty
// or a block scalar, to which the next line may add what it likes.
func (s configSpot) unsettled() bool {
	return s.open && s.node.Kind == yaml.ScalarNode &&
		(isConfigNull(s.node) || s.node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0)
}

// configGrowError is a fault of a value that more words may repair.
type configGrowError struct{ error }

func (e *configGrowError) Unwrap() error { return e.error }

// configDecoder walks the tree, fills the config and collects what is wrong.
type configDecoder struct {
	cfg   *Config
	box   string
	lines int
	errs  []*ConfigError
	seen  map[string]int // the line of each key, with those above it: security.profile
}

func newConfigDecoder(box string, text []byte, doc configDoc) *configDecoder {
	return &configDecoder{cfg: defaultConfig(box), box: box, lines: configLines(text), seen: map[string]int{}}
}

// firstError returns the fault nearest to the top, or nil.
func (d *configDecoder) firstError() *ConfigError {
	var first *ConfigError
	for _, e := range d.errs {
		if first == nil || e.Line < first.Line {
			first = e
		}
	}
	return first
}

// fail notes a fault that no continuation repairs.
func (d *configDecoder) fail(s configSpot, format string, args ...any) {
	d.failAt(s.node.Line, s.key, fmt.Sprintf(format, args...))
}

func (d *configDecoder) failAt(line int, key, msg string) {
	d.errs = append(d.errs, &ConfigError{
		Box: d.box, Line: min(max(line, 1), d.lines), Key: key, Msg: msg,
	})
}

// failYet notes a fault that is none while the value is open.
func (d *configDecoder) failYet(s configSpot, format string, args ...any) {
	if !s.open {
		d.fail(s, format, args...)
	}
}

// failType says what was expected, with an example, and what was found.
func (d *configDecoder) failType(s configSpot, want string) {
	if isConfigNull(s.node) {
		d.fail(s, "%s has no value: it must be %s (or leave the key out)", s.key, want)
		return
	}
	d.fail(s, "%s must be %s, not %s", s.key, want, configKind(s.node))
}

// document decodes the text. In a prefix nothing that may still come is missed.
func (d *configDecoder) document(doc configDoc, prefix bool) {
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
	s := newConfigSpot(doc.root, "", prefix)
	if !d.plainNode(s) || s.unsettled() {
		return
	}
	if isConfigNull(s.node) {
		d.fail(s, "the config is empty: it needs at least a command, like %s", example)
		return
	}
	if s.node.Kind != yaml.MappingNode {
		d.fail(s, "the config must be a map of keys, like %s, not %s", example, configKind(s.node))
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
func (d *configDecoder) keys() []configField {
	c := d.cfg
	return []configField{
		{"command", d.command(&c.Command, `[sleep, "60"]`)},
		{"env", d.env},
		{"workdir", func(s configSpot) { d.word(s, "an absolute path, like /srv", setConfigPath(&c.Workdir)) }},
		{"user", func(s configSpot) { d.word(s, `a user, like nobody or "1000:1000"`, setConfigUser(&c.User)) }},
		{"engine", func(s configSpot) { d.word(s, "an engine, like host or container", setConfigEngine(&c.Engine)) }},
		{"image", func(s configSpot) {
			d.word(s, "an image, like docker://docker.io/library/alpine:3", setConfigImage(&c.Image))
		}},
		{"pull", func(s configSpot) {
			d.word(s, "missing, newer or always", setConfigChoice(&c.Pull, PullMissing, PullNewer, PullAlways))
		}},
		{"rootfs", func(s configSpot) { d.word(s, "an absolute path, like /srv/rootfs", setConfigPath(&c.Rootfs)) }},
		{"overlay", func(s configSpot) { d.flag(s, &c.Overlay) }},
		{"init", func(s configSpot) { d.flag(s, &c.Init) }},
		{"entrypoint", d.entrypoint},
		{"runtime", func(s configSpot) { d.word(s, "crun or runc", setConfigChoice(&c.Runtime, ociRuntimes...)) }},
		{"hostname", func(s configSpot) { d.word(s, "a host name, like web-1", setConfigHostname(&c.Hostname)) }},
		{"network", func(s configSpot) { d.word(s, "host or none", setConfigChoice(&c.Network, "host", "none")) }},
		{"mounts", d.mounts},
		{"resources", d.resources},
		{"rlimits", d.rlimits},
		{"security", d.security},
		{"health_check", d.health},
		{"restart", d.restart},
		{"stop", d.stop},
		{"autostart", func(s configSpot) { d.flag(s, &c.Autostart) }},
		{"remove_on_exit", func(s configSpot) { d.flag(s, &c.RemoveOnExit) }},
		{"expire", d.expire},
		{"detach", func(s configSpot) { d.flag(s, &c.Detach) }},
		{"log", d.log},
		{"labels", d.labels},
	}
}

// settleEngine fills in the defaults that depend on the engine, and refuses what does
// not go together.
func (d *configDecoder) settleEngine(line int, given map[string]bool) {
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
		c.Resources.Pids, c.Resources.PidsByDefault = DefaultPids, true
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
func (d *configDecoder) entrypoint(s configSpot) {
	if s.node.Kind == yaml.SequenceNode && len(s.node.Content) == 0 {
		d.cfg.Entrypoint = []string{}
		return
	}
	d.command(&d.cfg.Entrypoint, `[/bin/sh, -c], or [] for none`)(s)
}

// configField is a key of a map and what decodes its value.
type configField struct {
	name   string
	decode func(configSpot)
}

// fields decodes a map that has these keys and no others, and returns which of
// them it has; nil if it is no map. want says what is expected.
func (d *configDecoder) fields(s configSpot, want string, fields []configField) map[string]bool {
	if s.node.Kind != yaml.MappingNode {
		d.failType(s, want)
		return nil
	}
	given := map[string]bool{}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	d.pairs(s, func(name string, key, value configSpot) {
		for _, f := range fields {
			if f.name != name {
				continue
			}
			given[name] = true
			d.seen[key.key] = key.node.Line
			if d.plainNode(value) && !value.unsettled() {
				f.decode(value)
			}
			return
		}
		hint := ""
		if near := nearestWord(name, names); near != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", s.child(near))
		} else if s.key != "" {
			hint = fmt.Sprintf(" (known here: %s)", strings.Join(names, ", "))
		}
		d.fail(key, "unknown key %q%s", key.key, hint)
	})
	return given
}

// pairs calls fn for each key of a map and its value. Keys that are no words
// and keys given twice are refused here.
func (d *configDecoder) pairs(s configSpot, fn func(name string, key, value configSpot)) {
	lines := map[string]int{}
	items := s.node.Content
	for i := 0; i+1 < len(items); i += 2 {
		last := s.open && i+2 == len(items)
		value := newConfigSpot(items[i+1], "", last)
		// A key written as "? key" may go on for as long as it has no value.
		key := newConfigSpot(items[i], s.key, last && isConfigNull(value.node))
		if !d.plainNode(key) || key.unsettled() {
			continue
		}
		if key.node.Kind != yaml.ScalarNode || isConfigNull(key.node) || key.node.Value == "" {
			what := "nothing"
			if key.node.Kind != yaml.ScalarNode {
				what = configKind(key.node)
			}
			d.fail(key, "a key must be a word, not %s", what)
			continue
		}
		name := key.node.Value
		key.key = s.child(showConfigKey(name))
		value.key = key.key
		if first, twice := lines[name]; twice {
			d.failYet(key, "key %q is given twice, first on line %d: keep one", key.key, first)
			continue
		}
		lines[name] = key.node.Line
		fn(name, key, value)
	}
}

// entries calls fn for each entry of a map whose keys are the user's own.
// check judges a key. Entries without a value are refused.
func (d *configDecoder) entries(s configSpot, want string, check func(string) error, fn func(name string, value configSpot)) {
	if s.node.Kind != yaml.MappingNode {
		d.failType(s, want)
		return
	}
	d.pairs(s, func(name string, key, value configSpot) {
		if err := check(name); err != nil {
			d.fail(key, "%v", err)
			return
		}
		if d.plainNode(value) && !value.unsettled() {
			fn(name, value)
		}
	})
}

// items calls fn for each item of a list that can be judged.
func (d *configDecoder) items(s configSpot, want string, fn func(configSpot)) {
	if s.node.Kind != yaml.SequenceNode {
		d.failType(s, want)
		return
	}
	for i, n := range s.node.Content {
		item := newConfigSpot(n, fmt.Sprintf("%s[%d]", s.key, i), s.open && i+1 == len(s.node.Content))
		if d.plainNode(item) && !item.unsettled() {
			fn(item)
		}
	}
}

// plainNode refuses what a config has no use for: anchors (and so aliases, which
// need one before them), merge keys and tags.
func (d *configDecoder) plainNode(s configSpot) bool {
	switch n := s.node; {
	case n.Anchor != "":
		d.fail(s, "anchors are not supported: quote a value that starts with &")
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(s, "tags are not supported: quote a value that starts with !")
	case n.Tag == "!!merge":
		d.fail(s, "merge keys (<<) are not supported: write the keys out")
	default:
		return true
	}
	return false
}

// word gives the literal text of a scalar to set, whatever type YAML takes it
// for: a user who writes 60 or true means these characters.
func (d *configDecoder) word(s configSpot, want string, set func(string) error) {
	if s.node.Kind != yaml.ScalarNode || isConfigNull(s.node) {
		d.failType(s, want)
		return
	}
	text := s.node.Value
	if strings.IndexByte(text, 0) >= 0 {
		d.fail(s, "%s holds a NUL byte", s.key)
		return
	}
	err := set(text)
	var grow *configGrowError
	if errors.As(err, &grow) {
		d.failYet(s, "%s %v", s.key, err)
	} else if err != nil {
		d.fail(s, "%s %v", s.key, err)
	}
}

// text decodes any string.
func (d *configDecoder) text(s configSpot, want string, to *string) {
	d.word(s, want, func(text string) error { *to = text; return nil })
}

// flag decodes true or false.
func (d *configDecoder) flag(s configSpot, to *bool) {
	if s.node.Kind != yaml.ScalarNode || s.node.Tag != "!!bool" {
		d.failType(s, "true or false")
		return
	}
	*to = strings.EqualFold(s.node.Value, "true")
}

// command decodes the words of a program and its arguments.
func (d *configDecoder) command(to *[]string, example string) func(configSpot) {
	return func(s configSpot) {
		d.items(s, "a list of words, like "+example, func(item configSpot) {
			var word string
			d.text(item, `a word, like "60"`, &word)
			*to = append(*to, word)
		})
		if s.node.Kind != yaml.SequenceNode {
			return
		}
		if len(s.node.Content) == 0 {
			d.failYet(s, "%s is empty: name what is run, like %s", s.key, example)
		} else if n := s.node.Content[0]; n.Kind == yaml.ScalarNode && !isConfigNull(n) && n.Value == "" {
			item := newConfigSpot(n, s.key+"[0]", s.open && len(s.node.Content) == 1)
			d.failYet(item, "%s is empty: name the program, like %s", item.key, example)
		}
	}
}

func (d *configDecoder) env(s configSpot) {
	check := func(name string) error {
		if strings.Contains(name, "=") {
			return fmt.Errorf("env name %q holds a \"=\": write NAME: value", showConfigKey(name))
		}
		if hasControl(name) {
			return fmt.Errorf("env name %q holds a control character", showConfigKey(name))
		}
		return nil
	}
	d.entries(s, "a map, like {LANG: C.UTF-8}", check, func(name string, value configSpot) {
		var text string
		d.text(value, `a string, like "1"`, &text)
		d.cfg.Env[name] = text
	})
}

func (d *configDecoder) mounts(s configSpot) {
	const example = "{source: /srv/www, target: /www, readonly: true}"
	targets := map[string]int{}
	d.items(s, "a list of maps, like ["+example+"]", func(item configSpot) {
		var m Mount
		given := d.fields(item, "a map, like "+example, []configField{
			{"source", func(s configSpot) { d.word(s, "an absolute path, like /srv/www", setConfigPath(&m.Source)) }},
			{"target", func(s configSpot) {
				d.word(s, "an absolute path, like /www", func(text string) error {
					if err := setConfigPath(&m.Target)(text); err != nil {
						return err
					}
					if text == "/" {
						return &configGrowError{errors.New(`"/" cannot be mounted over: name a directory below it`)}
					}
					if line, twice := targets[text]; twice {
						return &configGrowError{fmt.Errorf("%q is mounted over already on line %d", text, line)}
					}
					targets[text] = s.node.Line
					return nil
				})
			}},
			{"readonly", func(s configSpot) { d.flag(s, &m.ReadOnly) }},
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
	maxConfigCPUs = 1 << 16
	maxConfigPids = 1 << 22 // PID_MAX_LIMIT
)

func (d *configDecoder) resources(s configSpot) {
	res := &d.cfg.Resources
	d.fields(s, "a map, like {cpus: 1.5, memory: 512MiB, pids: 1024}", []configField{
		{"cpus", func(s configSpot) {
			d.word(s, "a number of processors, like 1.5", func(text string) (err error) {
				if !configNumber.MatchString(text) {
					return fmt.Errorf("%q is no number of processors: write it like 0.5 or 2", showConfigKey(text))
				}
				if res.CPUs, err = strconv.ParseFloat(text, 64); err != nil || res.CPUs < 0.01 || res.CPUs > maxConfigCPUs {
					return fmt.Errorf("%s is out of range: it goes from 0.01 to %d (leave the key out for no limit)", text, maxConfigCPUs)
				}
				return nil
			})
		}},
		{"memory", func(s configSpot) {
			d.word(s, "a size, like 512MiB", setConfigSize(&res.Memory, 1<<20, "1MiB"))
		}},
		{"pids", func(s configSpot) {
			d.word(s, "a number of threads, like 1024, or unlimited", func(text string) (err error) {
				if text == "unlimited" || text == "max" {
					res.Pids = 0
					return nil
				}
				if res.Pids, err = strconv.ParseInt(text, 10, 64); err != nil || res.Pids < 1 || res.Pids > maxConfigPids {
					return fmt.Errorf("%q is out of range: write a whole number from 1 to %d, or unlimited", showConfigKey(text), maxConfigPids)
				}
				return nil
			})
		}},
	})
}

func (d *configDecoder) rlimits(s configSpot) {
	check := func(name string) error {
		if _, ok := RlimitNumber(name); ok {
			return nil
		}
		near := nearestWord(strings.TrimPrefix(strings.ToLower(name), "rlimit_"), rlimitNames)
		return fmt.Errorf("unknown rlimit %q%s", showConfigKey(name), didYouMean(near, rlimitNames))
	}
	d.entries(s, "a map, like {nofile: 4096}", check, func(name string, value configSpot) {
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

func (d *configDecoder) security(s configSpot) {
	sec := &d.cfg.Security
	d.fields(s, "a map, like {no_new_privileges: true}", []configField{
		{"profile", func(s configSpot) {
			d.word(s, "default or strict", setConfigChoice(&sec.Profile, ProfileDefault, ProfileStrict))
		}},
		{"no_new_privileges", func(s configSpot) { d.flag(s, &sec.NoNewPrivileges) }},
		{"capabilities", func(s configSpot) {
			d.fields(s, "a map, like {drop: [ALL], add: [NET_BIND_SERVICE]}", []configField{
				{"add", func(s configSpot) { d.capabilities(s, &sec.Capabilities.Add) }},
				{"drop", func(s configSpot) { d.capabilities(s, &sec.Capabilities.Drop) }},
			})
		}},
		{"readonly_rootfs", func(s configSpot) { d.flag(s, &sec.ReadonlyRootfs) }},
	})
}

func (d *configDecoder) capabilities(s configSpot, to *[]string) {
	d.items(s, "a list of capabilities, like [NET_BIND_SERVICE]", func(item configSpot) {
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

func (d *configDecoder) stop(s configSpot) {
	stop := &d.cfg.Stop
	d.fields(s, "a map, like {signal: SIGTERM, timeout: 10s}", []configField{
		{"signal", func(s configSpot) {
			d.word(s, "a signal, like SIGTERM", func(text string) (err error) {
				if stop.Signal, err = ParseSignal(text); err != nil {
					return fmt.Errorf("is an %w", err)
				}
				return nil
			})
		}},
		{"timeout", func(s configSpot) { d.word(s, "a duration, like 10s", setConfigDuration(&stop.Timeout)) }},
	})
}

// The bounds of what is timed: less would be all that the daemon does, and a year is
// as good as never.
const (
	minConfigTime = 10 * time.Millisecond
	maxConfigTime = 365 * 24 * time.Hour
)

func (d *configDecoder) health(s configSpot) {
	h := &d.cfg.Health
	probe := func(to *time.Duration) func(configSpot) {
		return func(s configSpot) {
			d.word(s, "a duration, like 30s", setConfigDurationIn(to, minConfigTime, maxConfigTime))
		}
	}
	given := d.fields(s, "a map, like {interval: 30s} or {disabled: true}", []configField{
		{"disabled", func(s configSpot) { d.flag(s, &h.Disabled) }},
		{"command", d.command(&h.Command, "[curl, -fsS, localhost]")},
		{"tcp", func(s configSpot) {
			d.word(s, "a port, like 8080", func(text string) error {
				port, err := strconv.ParseUint(text, 10, 16)
				if err != nil || port == 0 {
					return fmt.Errorf("%q is no port: write a whole number from 1 to 65535", showConfigKey(text))
				}
				h.TCP = uint16(port)
				return nil
			})
		}},
		{"http", func(s configSpot) { d.word(s, "a URL, like http://localhost:8080/health", setConfigURL(&h.HTTP)) }},
		{"interval", probe(&h.Interval)},
		{"timeout", probe(&h.Timeout)},
		{"retries", func(s configSpot) {
			d.word(s, "a number, like 3", setConfigCount(&h.Retries, 1, 1000))
		}},
		{"start_period", func(s configSpot) { d.word(s, "a duration, like 60s", setConfigDuration(&h.StartPeriod)) }},
		{"on_unhealthy", func(s configSpot) { d.word(s, "none or restart", setConfigChoice(&h.OnUnhealthy, "none", "restart")) }},
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

func (d *configDecoder) restart(s configSpot) {
	r := &d.cfg.Restart
	given := d.fields(s, "a map, like {policy: always}", []configField{
		{"policy", func(s configSpot) {
			d.word(s, "a policy, like on-failure", setConfigChoice(&r.Policy, RestartNo, RestartAlways, RestartOnFailure, RestartUnlessStopped))
		}},
		{"max_retries", func(s configSpot) { d.word(s, "a number, like 5", setConfigCount(&r.MaxRetries, 1, 1<<30)) }},
	})
	if given["max_retries"] && r.Policy != RestartOnFailure {
		d.failYet(s, "restart.max_retries goes with policy on-failure only")
	}
}

func (d *configDecoder) expire(s configSpot) {
	e := &d.cfg.Expire
	least := func(to *time.Duration) func(configSpot) {
		return func(s configSpot) {
			d.word(s, "a duration, like 1h", setConfigDurationIn(to, minConfigTime, maxConfigTime))
		}
	}
	d.fields(s, "a map, like {after: 1h, idle: 15m}", []configField{
		{"after", least(&e.After)},
		{"idle", least(&e.Idle)},
	})
}

func (d *configDecoder) log(s configSpot) {
	d.fields(s, "a map, like {max_size: 10MiB}", []configField{
		{"max_size", func(s configSpot) {
			d.word(s, "a size, like 10MiB", setConfigSize(&d.cfg.Log.MaxSize, 4<<10, "4KiB"))
		}},
	})
}

var configLabelKey = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_./-]{0,62}$`)

const maxConfigLabel = 256

func (d *configDecoder) labels(s configSpot) {
	check := func(name string) error {
		if !configLabelKey.MatchString(name) {
			return fmt.Errorf("label %q is no valid name: use up to 63 of a-z A-Z 0-9 _ . / -, a letter or digit first", showConfigKey(name))
		}
		return nil
	}
	d.entries(s, "a map, like {team: web}", check, func(name string, value configSpot) {
		d.word(value, "a string, like web", func(text string) error {
			if hasControl(text) {
				return errors.New("holds a control character: a label is one line of text")
			}
			if len(text) > maxConfigLabel {
				return fmt.Errorf("is %d bytes long, the limit is %d", len(text), maxConfigLabel)
			}
			d.cfg.Labels[name] = text
			return nil
		})
	})
}

const maxConfigPath = 4095 // PATH_MAX without its NUL

// setConfigPath takes an absolute and clean path.
func setConfigPath(to *string) func(string) error {
	return func(text string) error {
		switch {
		case hasControl(text):
			return errors.New("holds a control character")
		case len(text) > maxConfigPath:
			return fmt.Errorf("is %d bytes long, the limit is %d", len(text), maxConfigPath)
		case !path.IsAbs(text):
			return fmt.Errorf("%q is not absolute: start it with a /", text)
		case path.Clean(text) != text:
			return &configGrowError{fmt.Errorf("%q is not clean: write %q", text, path.Clean(text))}
		}
		*to = text
		return nil
	}
}

var configUserPart = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,255}\$?$`)

// setConfigUser takes a name or uid, with a group after it or not.
func setConfigUser(to *string) func(string) error {
	return func(text string) error {
		user, group, both := strings.Cut(text, ":")
		parts := []string{user}
		if both {
			parts = append(parts, group)
		}
		for _, p := range parts {
			if !configUserPart.MatchString(p) {
				return fmt.Errorf("%q is no user: write a name or uid, like nobody, 1000 or \"1000:1000\"", text)
			}
			if strings.Trim(p, "0123456789") != "" {
				continue
			}
			// The id -1 means "unchanged" to setresuid(2).
			if id, err := strconv.ParseUint(p, 10, 32); err != nil || id == 1<<32-1 {
				return fmt.Errorf("%q is out of range: ids go from 0 to 4294967294", text)
			}
		}
		*to = text
		return nil
	}
}

// setConfigEngine takes one of the engines there are.
func setConfigEngine(to *string) func(string) error {
	return func(text string) error {
		if text == "vm" {
			return fmt.Errorf("%q is not supported yet (engines here: host, container)", text)
		}
		return setConfigChoice(to, EngineHost, EngineContainer)(text)
	}
}

// setConfigImage takes a reference of an image.
func setConfigImage(to *string) func(string) error {
	return func(text string) error {
		if _, err := image.ParseRef(text); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "image ")) // the key is said already
		}
		*to = text
		return nil
	}
}

// setConfigChoice takes one of some words.
func setConfigChoice(to *string, words ...string) func(string) error {
	return func(text string) error {
		for _, w := range words {
			if text == w {
				*to = w
				return nil
			}
		}
		return fmt.Errorf("%q is unknown%s", showConfigKey(text), didYouMean(nearestWord(text, words), words))
	}
}

var configHostLabel = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

const maxConfigHostname = 64 // HOST_NAME_MAX

// setConfigHostname takes host labels with dots between them.
func setConfigHostname(to *string) func(string) error {
	return func(text string) error {
		if len(text) > maxConfigHostname {
			return fmt.Errorf("is %d bytes long, the limit is %d", len(text), maxConfigHostname)
		}
		for _, label := range strings.Split(text, ".") {
			if !configHostLabel.MatchString(label) {
				return fmt.Errorf("%q is no host name: use a-z A-Z 0-9 and - inside, like web-1", text)
			}
		}
		*to = text
		return nil
	}
}

var configNumber = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// setConfigCount takes a whole number.
func setConfigCount(to *int, least, most int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is no whole number from %d to %d", showConfigKey(text), least, most)
		}
		*to = n
		return nil
	}
}

// setConfigURL takes what a probe can ask for without a resolver and without TLS.
func setConfigURL(to *string) func(string) error {
	return func(text string) error {
		if _, _, _, err := parseProbeURL(text); err != nil {
			return fmt.Errorf("%q %w: write it like http://localhost:8080/health", showConfigKey(text), err)
		}
		*to = text
		return nil
	}
}

// setConfigDurationIn takes a duration within bounds.
func setConfigDurationIn(to *time.Duration, least, most time.Duration) func(string) error {
	return func(text string) error {
		if err := setConfigDuration(to)(text); err != nil {
			return err
		}
		if *to < least || *to > most {
			return fmt.Errorf("%s is out of range: it goes from %s to %dh", text, least, int(most.Hours()))
		}
		return nil
	}
}

var (
	configDays  = regexp.MustCompile(`^[0-9]{1,9}d$`)
	configHours = regexp.MustCompile(`^[0-9]+(h|m|s)$`)
)

// setConfigDuration takes a duration as Go writes it, not negative.
func setConfigDuration(to *time.Duration) func(string) error {
	return func(text string) error {
		if configNumber.MatchString(text) && text != "0" {
			return fmt.Errorf("%q has no unit: write it like %ss", showConfigKey(text), showConfigKey(text))
		}
		v, err := time.ParseDuration(text)
		switch {
		case err != nil && configDays.MatchString(text):
			return fmt.Errorf("%q is no duration: write days in hours, like 24h", text)
		case err != nil && configHours.MatchString(text):
			return fmt.Errorf("%q is too long", showConfigKey(text))
		case err != nil:
			return fmt.Errorf("%q is no duration: write it like 10s or 1m30s", showConfigKey(text))
		}
		if v < 0 {
			return fmt.Errorf("%q is negative: write it like 10s", text)
		}
		*to = v
		return nil
	}
}
