package config

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
)

// shapes are valid configs in many ways of writing them: whatever YAML
// may still change on a later line is cut here somewhere.
var shapes = []string{
	"command: [a]\n",
	"command: [a]",
	fullConfig,
	strings.ReplaceAll(fullConfig, "\n", "\r\n"),
	"\ufeff# comment\n\n---\n# more\ncommand: # c\n  # d\n  - a\n\n  - b # e\n# f\n...\n# g\n",
	"%YAML 1.1\n---\ncommand: [a]\n",
	"{\ncommand: [\na\n,\n\"b\n\nc\"\n,\n'd\ne'\n]\n,\n\"env\": {\nA:\nb\n},\nsecurity: {\ncapabilities: {\nadd: [\n'net_raw'\n]\n}\n}\n}\n",
	"{command: [a], mounts: [{source: /a,\n target: /b}, {target: '/c',\n\n source: \"/d\"}]}\n",
	"? command\n: - a\n? env\n: ? A\n    b\n  : c\n  ? A\n  : d\n",
	"env:\n  A: x\n  ? A\n    b\n  : c\ncommand: [a]\n",
	"? |-\n  command\n: [a]\n? >-\n  user\n:\n  root\n",
	"?\n  command\n: [a]\n",
	"  command:\n  - a\n  env:\n    A:\n      b\n",
	"command:\n-\n  a\n-\n  b\n",
	"command: [sh, -c, \"a \\\n  b \\\\ \\\n  c\"]\n",
	"command:\n- >-\n\n  a\n   b\n\n  c\n- |+\n  d\n\n\n- |2\n   e\n-\n  null\n  f\n- ~\n  g\n",
	"log:\n  max_size: 10\n    MiB\ncommand: [a]\n",
	"log:\n  max_size:\n    1\n    MiB\ncommand: [a]\n",
	"workdir: /a/\n  b\ncommand: [a]\n",
	"mounts:\n- source: /a/\n    b\n  target: /\n    c\n- target: /d\n  source: /e\n- source: /f\n  target: /d\n    x\ncommand: [a]\n",
	"env:\n  A: true\n    or not\n  B: |\n    x: [\n    \"\n  C: >\n\n    y\n  D: 'it''s\n\n    z'\ncommand: [a]\n",
	"env:\n  A: \"{[\"\n  B: '}]'\n  C: a [b] {c} # d\n  D: a#b\ncommand: [a]\n",
	"stop:\n  timeout:\n    1m\n  signal:\n\n    '9'\ncommand:\n  [a,\n  b]\n",
	"detach: !\n  false\ncommand: [a]\n",
	"network: >-\n  none\nengine: |-\n  host\ncommand: [a]\n",
	"labels:\n  a: ''\n  ? b\n  : c\ncommand: [a]\nrlimits: {core: 0, cpu:\n unlimited}\n",
	"labels: {a: \"x\n y\", b: é😀}\ncommand: [é, \"\\x41\\u00e9\\U0001F600\"]\n",
	"command: ['a', # x\n# y\n'b' # z\n] # w\n# v\n",
	"labels:\n  # a\n\n  # b\n  c: d\n  # e\n# f\n\n# g\ncommand:\n# h\n- a\n  # i\n- b\n# j\n",
}

// checkPrefixes is the promise of CheckPrefix: no beginning of a
// valid config is ever refused, wherever it is cut.
func checkPrefixes(t *testing.T, text []byte) {
	t.Helper()
	for n := 0; n <= len(text); n++ {
		if err := CheckPrefix("box", text[:n]); err != nil {
			t.Fatalf("valid config %q\nis refused after %q: %v", text, text[:n], err)
		}
	}
}

func TestPrefixOfValidIsNeverRefused(t *testing.T) {
	for _, text := range shapes {
		if _, err := Parse("box", []byte(text)); err != nil {
			t.Errorf("no valid config: %q: %v", text, err)
			continue
		}
		checkPrefixes(t, []byte(text))
	}
}

// generator writes random valid configs: the same content in all the ways that
// YAML has of writing it.
type generator struct {
	*rand.Rand
	literal bool // the last scalar was a block scalar: it has no comment after it
}

func (g *generator) pick(of ...string) string { return of[g.IntN(len(of))] }

// gap is what may stand at the end of a line.
func (g *generator) gap(indent string) string {
	if g.literal {
		g.literal = false
		return "\n"
	}
	return g.pick("\n", "\n", "\n", "\n", "\r\n", " # [x: \"\n", "\n\n", "\n"+indent+"# y\n", "  \n", "\n# '\n")
}

// flowGap is what may stand between the tokens of a flow collection.
func (g *generator) flowGap() string {
	return g.pick("", "", "", " ", "\n ", "\n", " # ]}\n", "\n\n  ")
}

// scalar writes a word for a block collection indented by indent.
func (g *generator) scalar(word, indent string, flow bool) string {
	deeper := indent + "  "
	ways := []string{word, "'" + word + "'", `"` + word + `"`}
	if len(word) > 1 {
		ways = append(ways, `"`+word[:1]+"\\\n"+deeper+word[1:]+`"`)
	}
	if before, after, two := strings.Cut(word, " "); two {
		ways = append(ways, before+"\n"+deeper+after, `"`+before+"\n"+deeper+after+`"`, "'"+before+"\n"+deeper+after+"'")
		if !flow {
			ways = append(ways, ">-\n"+deeper+before+"\n"+deeper+after)
		}
	}
	if !flow {
		ways = append(ways, "|-\n"+deeper+word, ">-\n"+deeper+word, "|-\n"+deeper+word+"\n", "\n"+deeper+word)
	}
	way := g.pick(ways...)
	g.literal = strings.ContainsAny(way[:1], "|>")
	return way
}

// value writes a tree of words ([]any, []pair for maps, string; a raw value
// has no other way of writing).
func (g *generator) value(v any, indent string, flow bool) string {
	switch v := v.(type) {
	case rawConfig:
		return string(v)
	case string:
		return g.scalar(v, indent, flow)
	case []any:
		if flow || g.IntN(2) == 0 {
			s := "[" + g.flowGap()
			for i, item := range v {
				if s += g.value(item, indent, true) + g.flowGap(); i+1 < len(v) {
					s += "," + g.flowGap()
				}
			}
			return s + g.pick("", ",") + g.flowGap() + "]"
		}
		s, in := "", indent+g.pick("", "  ")
		for i, item := range v {
			if s += in + "- " + g.value(item, in+"  ", false); i+1 < len(v) {
				s += g.gap(in)
			}
		}
		return "\n" + s
	case []pair:
		if flow || g.IntN(2) == 0 {
			s := "{" + g.flowGap()
			for i, kv := range v {
				// Explicit, so that the gap is no part of a simple key.
				s += g.pick("", "? ") + kv.key + ": " + g.flowGap() + g.value(kv.value, indent, true) + g.flowGap()
				if i+1 < len(v) {
					s += "," + g.flowGap()
				}
			}
			return s + "}"
		}
		return "\n" + g.block(v, indent+"  ")
	}
	panic("no such value")
}

type rawConfig string

type pair struct {
	key   string
	value any
}

// block writes a block map without its last newline.
func (g *generator) block(pairs []pair, indent string) string {
	s := ""
	for i, kv := range pairs {
		key := kv.key
		switch g.IntN(6) {
		case 0:
			s += indent + "? " + key + g.gap(indent) + indent + ": "
		case 1:
			s += indent + "? |-\n" + indent + "  " + key + "\n" + indent + ": "
		case 2:
			s += indent + `"` + key + `" : `
		default:
			s += indent + key + ": "
		}
		if s += g.value(kv.value, indent, false); i+1 < len(pairs) {
			s += g.gap(indent)
		}
	}
	return s
}

func (g *generator) config() string {
	pairs := []pair{
		{"command", []any{"sh", "-c", "echo a", "x y"}},
		{"env", []pair{{"A", "b c"}, {"B", "true"}, {"PATH", "/a:/b"}}},
		{"workdir", g.pick("/a", "/a b", "/")},
		{"user", "nobody"},
		{"engine", "host"},
		{"hostname", "web-1"},
		{"network", g.pick("host", "none")},
		{"mounts", []any{
			[]pair{{"source", "/a b"}, {"target", "/c"}, {"readonly", rawConfig("true")}},
			[]pair{{"target", "/d"}, {"source", "/e"}},
		}},
		{"rlimits", []pair{{"core", rawConfig("0")}, {"nofile", "unlimited"}}},
		{"security", []pair{
			{"capabilities", []pair{{"add", []any{"net_raw", "CAP_CHOWN"}}, {"drop", []any{"ALL"}}}},
			{"readonly_rootfs", rawConfig("false")},
		}},
		{"health_check", []pair{{"command", []any{"a", "b c"}}, {"interval", "1m"}, {"retries", rawConfig("3")}, {"disabled", rawConfig("false")}}},
		{"restart", []pair{{"max_retries", "5"}, {"policy", "on-failure"}}},
		{"expire", []pair{{"after", "1h"}, {"idle", "15m"}}},
		{"stop", []pair{{"signal", g.pick("TERM", "sigint", "15")}, {"timeout", "1m30s"}}},
		{"autostart", rawConfig("true")},
		{"log", []pair{{"max_size", g.pick("10 MiB", "64KiB", "8192")}}},
		{"labels", []pair{{"a/b", "c d"}, {"e", "f"}}},
	}
	g.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	for i, kv := range pairs { // the command and some others
		if kv.key == "command" {
			pairs[0], pairs[i] = pairs[i], pairs[0]
		}
	}
	pairs = pairs[:1+g.IntN(5)]
	g.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	head := g.pick("", "", "---\n", "# c\n", "%YAML 1.1\n---\n", "\n\n")
	tail := g.pick("", "\n", "\n...\n", "\n# c\n", "\n\n")
	if g.IntN(5) == 0 {
		return head + g.value(pairs, "", true) + tail
	}
	return head + g.block(pairs, g.pick("", "", "", "  ")) + tail
}

func TestPrefixOfGeneratedIsNeverRefused(t *testing.T) {
	for seed := range uint64(300) {
		g := generator{Rand: rand.New(rand.NewPCG(seed, 1))}
		text := []byte(g.config())
		if _, err := Parse("box", text); err != nil {
			t.Fatalf("seed %d: the generated config %q is not valid: %v", seed, text, err)
		}
		for _, n := range lineEnds(string(text)) {
			if err := CheckPrefix("box", text[:n]); err != nil {
				t.Fatalf("seed %d: valid config %q\nis refused after %q: %v", seed, text, text[:n], err)
			}
		}
	}
}

// What a write refuses, no later line makes valid: also in texts that are
// nearly valid.
func TestPrefixVerdictIsFinal(t *testing.T) {
	refused := 0
	for _, shape := range shapes {
		if strings.Contains(shape, "\r") {
			continue // as the one with \n
		}
		for _, cut := range append(lineEnds(shape), 0) {
			for _, junk := range []string{"]\n", "}\n", "comand: a\n", "\"\n", "- x\n", "  x: y\n", "a\n", "---\n", "  ? A\n"} {
				text := []byte(shape[:cut] + junk + shape[cut:])
				_, whole := Parse("box", text)
				const after = 5 // lines: what is wrong shows soon or at the end
				for i, n := range append(lineEnds(string(text[cut:])), len(text)-cut) {
					if n += cut; i >= after && n < len(text) {
						continue
					}
					err := CheckPrefix("box", text[:n])
					if err == nil {
						continue
					}
					if refused++; whole == nil {
						t.Fatalf("%q is valid, but refused after %q: %v", text, text[:n], err)
					}
					break
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("only %d of the texts were refused", refused)
	}
}

// One parse must be enough for a text that is broken well before its end.
func TestFailsAhead(t *testing.T) {
	more := strings.Repeat("a: b\n", 10)
	for text, want := range map[string]bool{
		"command: [a]]\n" + more: true,
		"a: b: c\n" + more:       true,
		"command: [a\n":          false,
		"command: \"a\n" + more:  false,
		"command: [a]\n" + more:  false,
	} {
		if got := failsAhead(&slowReader{text: []byte(text)}); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// Two documents are beyond repair also where the second is cut in a quote.
func TestPrefixSecondDocument(t *testing.T) {
	for _, text := range []string{"command: [a]\n---\n", "command: [a]\n---\n\"\n", "command: [a]\n---\n- [\n"} {
		if err := CheckPrefix("box", []byte(text)); err == nil {
			t.Errorf("%q: not refused", text)
		}
	}
}

// lineEnds are the places just after each newline.
func lineEnds(text string) (ends []int) {
	for i, c := range []byte(text) {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	return ends
}

// Lines that are not complete yet are not judged, but bytes are.
func TestPrefixJudgesWholeLines(t *testing.T) {
	for _, text := range []string{"", "comand", "comand: [b]", "command: [a]\ncoma", "command: [a]\n]", "a: \"\xc3", "\xf0\x9f\x98", "a\r"} {
		if err := CheckPrefix("box", []byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"comand: [b]\n", "comand: [b]\nx", "\x00", "a\xff", "\xc3(", "command: [a]]\n", "a\rb"} {
		if err := CheckPrefix("box", []byte(text)); err == nil {
			t.Errorf("%q: not refused", text)
		}
	}
}

func addSeeds(f *testing.F) {
	for _, text := range shapes {
		f.Add([]byte(text))
	}
	for _, text := range []string{
		"", "\n", "a", "- a\n", "comand: [a]\n", "command: [a]]\n", "command: [[[[[a\n", "command: &a [*a]\n", "<<: {}\n",
		"command: [a]\n---\ncommand: [b]\n", "command: [\"\\0\"]\n", "a: !!binary x\n", "\xff\xfe", "# a\n- # b\n# c\n", "a:\n  # b\n c\n# d\n- e\n",
		"stop: {signal: 0, timeout: -1s}\n", "log: {max_size: 1e9}\n", "rlimits: {nofile: -1}\n", "user: 1:2:3\n", "hostname: -\n",
		"mounts: [{source: //, target: ..}]\n", "? ? a\n", "a: |9\n", "@\n", "%\n", "a: b: c\n", "\t", "--- |\n a\n...\n--- >\n",
	} {
		f.Add([]byte(text))
	}
}

func FuzzParse(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("box", text)
		if (cfg == nil) == (err == nil) {
			t.Fatalf("got config %v and error %v", cfg, err)
		}
		if err != nil {
			checkFault(t, err, text)
			return
		}
		checkInvariants(t, cfg)
	})
}

func FuzzPrefix(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		const most = 2 << 10 // the check is quadratic
		if len(text) > most {
			return
		}
		_, err := Parse("box", text)
		if err == nil {
			// Between two newlines only the bytes are judged anew.
			for _, n := range lineEnds(string(text)) {
				for _, n := range []int{n - 1, n} {
					if err := CheckPrefix("box", text[:n]); err != nil {
						t.Fatalf("valid config %q\nis refused after %q: %v", text, text[:n], err)
					}
				}
			}
			return
		}
		if err := CheckPrefix("box", text); err != nil {
			checkFault(t, err, text)
		}
	})
}

func checkFault(t *testing.T, err error, text []byte) {
	t.Helper()
	if errors.Is(err, ErrTooBig) {
		return
	}
	var ce *Error
	if !errors.As(err, &ce) {
		t.Fatalf("error %#v", err)
	}
	lines := bytes.Count(text, []byte{'\n'}) + 1
	if ce.Line < 1 || ce.Line > lines || ce.Msg == "" || strings.ContainsAny(ce.Error(), "\n\x00") {
		t.Fatalf("error %+v for %d lines", ce, lines)
	}
}

// checkInvariants checks what the core relies on.
func checkInvariants(t *testing.T, c *Config) {
	t.Helper()
	must := func(ok bool, what string) {
		if !ok {
			t.Errorf("%s: %+v", what, c)
		}
	}
	abs := func(p string) bool { return path.IsAbs(p) && path.Clean(p) == p && !hasControl(p) }
	container := c.Engine == EngineContainer
	must(len(c.Command) > 0 && c.Command[0] != "" || c.Image != "" && len(c.Command) == 0, "command")
	must(container == (c.Image != "" || c.Rootfs != "") && (c.Image == "" || c.Rootfs == ""), "root")
	must(c.Rootfs == "" || abs(c.Rootfs), "rootfs")
	for _, w := range c.Command {
		must(!strings.Contains(w, "\x00"), "NUL in command")
	}
	for k, v := range c.Env {
		must(k != "" && !strings.ContainsAny(k, "=\x00") && !strings.Contains(v, "\x00"), "env")
	}
	must(abs(c.Workdir) || container && c.Workdir == "", "workdir")
	must((container || c.Engine == EngineHost) && (c.Network == "host" || c.Network == "none"), "engine and network")
	must((c.User != "" || container) && !strings.ContainsAny(c.User, " \n\x00/"), "user")
	must(c.Hostname != "" && len(c.Hostname) <= 64 && !strings.ContainsAny(c.Hostname, " \n\x00/"), "hostname")
	seen := map[string]bool{}
	for _, m := range c.Mounts {
		must(abs(m.Source) && abs(m.Target) && m.Target != "/" && !seen[m.Target], "mounts")
		seen[m.Target] = true
	}
	_, ok := c.Rlimits["nofile"]
	must(ok, "nofile")
	for name, l := range c.Rlimits {
		_, ok := RlimitNumber(name)
		must(ok && l.Soft <= l.Hard, "rlimits")
	}
	for _, name := range append(c.Security.Capabilities.Add, c.Security.Capabilities.Drop...) {
		_, err := capabilityByName(name)
		must(name == "ALL" || err == nil, "capabilities")
	}
	must(c.Stop.Signal >= 0 && c.Stop.Signal <= 64 && c.Stop.Timeout >= 0, "stop")
	h := c.Health
	kinds := 0
	for _, has := range []bool{len(h.Command) > 0, h.TCP != 0, h.HTTP != ""} {
		if has {
			kinds++
		}
	}
	must(kinds <= 1 && h.Interval > 0 && h.Timeout > 0 && h.Retries > 0 && h.StartPeriod >= 0 && (h.OnUnhealthy == "none" || h.OnUnhealthy == "restart"), "health_check")
	if _, err := h.Probe(); err != nil {
		t.Fatalf("no probe of %+v: %v", h, err)
	}
	must(c.Restart.MaxRetries == 0 || c.Restart.MaxRetries > 0 && c.Restart.Policy == "on-failure", "restart")
	must(c.Expire.After >= 0 && c.Expire.Idle >= 0, "expire")
	must(c.Log.MaxSize >= 4<<10, "log")
	for k, v := range c.Labels {
		must(len(k) <= 63 && len(v) <= 256 && !hasControl(k+v), "labels")
	}
}
