package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The page boxlite.yaml(5) says what the decoder does.
const manual = "boxlite.yaml.5.md"

func readManual(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// manualKeys returns the paragraphs of the section KEYS by their keys.
func manualKeys(t *testing.T, page string) map[string]string {
	t.Helper()
	_, keys, _ := strings.Cut(page, "\n## KEYS\n")
	keys, _, found := strings.Cut(keys, "\n## ")
	if !found {
		t.Fatalf("%s has no section KEYS", manual)
	}
	paragraphs := map[string]string{}
	for _, p := range strings.Split(keys, "\n### ")[1:] {
		key, text, _ := strings.Cut(p, "\n")
		if _, twice := paragraphs[key]; twice {
			t.Errorf("%s has two paragraphs", key)
		}
		paragraphs[key] = strings.TrimSpace(text)
	}
	return paragraphs
}

// oneSpaced joins the lines of a text.
func oneSpaced(text string) string { return strings.Join(strings.Fields(text), " ") }

// decoderKeys returns the keys of a config.yaml, like "stop.signal" and "mounts[].source": the first
// ones by the decoder's table, and those within them by what it says of one that it does not know.
func decoderKeys() (keys []string) {
	d := newDecoder("web", nil, document{})
	var within func(key, open, end string)
	within = func(key, open, end string) {
		keys = append(keys, key)
		for _, brackets := range []string{"{}", "[{}]"} {
			with := strings.Replace(brackets, "{}", "{zzzzzzzzzzzz: 1}", 1)
			_, err := Parse("web", []byte(open+with+end))
			if err == nil {
				continue
			}
			_, known, ok := strings.Cut(err.Error(), "(known here: ")
			if !ok {
				continue
			}
			before, after, _ := strings.Cut(brackets, "{}")
			for _, name := range strings.Split(strings.TrimSuffix(known, ")"), ", ") {
				within(key+before+after+"."+name, open+before+"{"+name+": ", "}"+after+end)
			}
		}
	}
	for _, f := range d.keys() {
		within(f.name, f.name+": ", "\n")
	}
	return keys
}

func TestTheManualHasEveryKeyOfTheConfig(t *testing.T) {
	paragraphs := manualKeys(t, readManual(t))
	keys := decoderKeys()
	if len(keys) < 50 || !slices.Contains(keys, "security.capabilities.add") || !slices.Contains(keys, "mounts[].source") {
		t.Fatalf("not all keys of the decoder were found: %q", keys)
	}
	for _, key := range keys {
		if _, ok := paragraphs[key]; !ok {
			t.Errorf("%s has no paragraph for the key %s", manual, key)
		}
	}
	for key, text := range paragraphs {
		if !slices.Contains(keys, key) {
			t.Errorf("%s has a paragraph for %s, which is no key", manual, key)
		}
		for _, what := range []string{"Type: ", "Default: ", "Effect: "} {
			if head, _, _ := strings.Cut(text, "\n\n"); !strings.Contains(oneSpaced(head), what) {
				t.Errorf("the paragraph of %s does not begin with its %s", key, what)
			}
		}
	}
}

// nested gives a key of the manual a value.
func nested(key, value string) string {
	switch key {
	case "rlimits":
		if !strings.HasPrefix(value, "{") {
			key = "rlimits.nofile"
		}
	case "mounts[].readonly":
		return "mounts: [{source: /s, target: /t, readonly: " + value + "}]"
	case "restart.max_retries":
		return "restart: {policy: on-failure, max_retries: " + value + "}"
	}
	first, rest, _ := strings.Cut(key, ".")
	if rest == "" {
		return first + ": " + value
	}
	return first + ": {" + nested(rest, value) + "}"
}

// parsed decodes a text that is right. That nobody has asked for a number of threads is left out.
func parsed(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse("web", []byte(text))
	if err != nil {
		t.Fatalf("%v, of\n%s", err, text)
	}
	cfg.Resources.PidsByDefault = false
	return cfg
}

// The configurations that a key is tried in.
const (
	hostBase  = "command: [a]\n"
	imageBase = "image: oci:/x\n"
	rootBase  = "rootfs: /x\ncommand: [a]\n"
)

// baseOf returns the configuration that takes a key.
func baseOf(t *testing.T, key, value string) string {
	t.Helper()
	for _, base := range []string{hostBase, imageBase, rootBase} {
		if _, err := Parse("web", []byte(base+nested(key, value))); err == nil {
			return base
		}
	}
	_, err := Parse("web", []byte(hostBase+nested(key, value)))
	t.Errorf("%s: %v", key, err)
	return ""
}

func TestTheDefaultsOfTheManualHold(t *testing.T) {
	manualDefault := regexp.MustCompile("Default: `([^`]*)`(?:; `([^`]*)` in a container)?")
	n := 0
	for key, text := range manualKeys(t, readManual(t)) {
		m := manualDefault.FindStringSubmatch(oneSpaced(text))
		if m == nil {
			continue
		}
		n++
		base, without := baseOf(t, key, m[1]), "\n"
		if base == "" {
			continue
		}
		if key == "mounts[].readonly" {
			without = "mounts: [{source: /s, target: /t}]\n"
		}
		if got := parsed(t, base+nested(key, m[1])); !reflect.DeepEqual(got, parsed(t, base+without)) {
			t.Errorf("%s: %s is not the default: %+v", key, m[1], got)
		}
		if m[2] != "" && !reflect.DeepEqual(parsed(t, rootBase+nested(key, m[2])), parsed(t, rootBase)) {
			t.Errorf("%s: %s is not the default of a container", key, m[2])
		}
	}
	if n < 30 {
		t.Errorf("only %d defaults were found", n)
	}
}

func TestTheRangesOfTheManualHold(t *testing.T) {
	manualRange := regexp.MustCompile("Range: (?:from )?`([^`]*)`(?: to `([^`]*)`| on)[.]")
	n := 0
	for key, text := range manualKeys(t, readManual(t)) {
		m := manualRange.FindStringSubmatch(oneSpaced(text))
		if m == nil {
			if strings.Contains(text, "Range:") {
				t.Errorf("%s: its range is not understood", key)
			}
			continue
		}
		n++
		baseOf(t, key, m[1])
		if m[2] != "" {
			baseOf(t, key, m[2])
		}
	}
	if n < 10 {
		t.Errorf("only %d ranges were found", n)
	}
}

func TestWhatTheManualSaysHoldsAtOnceIsNotPending(t *testing.T) {
	var atOnce []string
	for key, text := range manualKeys(t, readManual(t)) {
		if strings.Contains(oneSpaced(text), "Effect: at once.") {
			atOnce = append(atOnce, key)
		}
	}
	slices.Sort(atOnce)
	if want := []string{"labels", "resources", "resources.cpus", "resources.memory", "resources.pids"}; !slices.Equal(atOnce, want) {
		t.Errorf("at once: %q, want %q", atOnce, want)
	}
	a, b := parsed(t, hostBase), parsed(t, hostBase+"labels: {a: b}\nresources: {cpus: 1, memory: 1MiB, pids: 1}\n")
	if !a.RunsLike(b) {
		t.Error("labels and resources are pending")
	}
}

// Each refused text of the manual stands with its sentence.
func TestTheErrorsOfTheManualAreThoseOfTheDecoder(t *testing.T) {
	cases := regexp.MustCompile("(?m)^- `([^`]*)`: `([^`]*)`$").FindAllStringSubmatch(readManual(t), -1)
	if len(cases) < 80 {
		t.Errorf("only %d refused texts were found", len(cases))
	}
	for _, c := range cases {
		_, err := Parse("web", []byte(c[1]))
		if e := new(Error); !errors.As(err, &e) || e.Msg != c[2] {
			t.Errorf("%s\ngives %v\nwant  %s", c[1], err, c[2])
		}
	}
}

func TestTheSizesOfTheManualAreThoseOfTheDecoder(t *testing.T) {
	cases := regexp.MustCompile("(?m)^- `([^`]*)` is ([0-9]+) bytes$").FindAllStringSubmatch(readManual(t), -1)
	if len(cases) < 5 {
		t.Errorf("only %d sizes were found", len(cases))
	}
	for _, c := range cases {
		cfg := parsed(t, hostBase+"log: {max_size: "+c[1]+"}\n")
		if got := strconv.FormatInt(cfg.Log.MaxSize, 10); got != c[2] {
			t.Errorf("%s is %s bytes, and not %s", c[1], got, c[2])
		}
	}
}

// An example is a whole configuration, or lacks no more than the command.
func TestTheExamplesOfTheManualParse(t *testing.T) {
	page := readManual(t)
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```\n").FindAllStringSubmatch(page, -1)
	if len(blocks) < 15 || strings.Count(page, "```yaml\n") != len(blocks) {
		t.Fatalf("%d examples were found", len(blocks))
	}
	for _, b := range blocks {
		_, err := Parse("web", []byte(b[1]))
		if e := new(Error); errors.As(err, &e) && strings.HasPrefix(e.Msg, "command is missing") {
			_, err = Parse("web", append([]byte(hostBase), b[1]...))
		}
		if err != nil {
			t.Errorf("%v, of\n%s", err, b[1])
		}
	}
	// The synopsis has all defaults.
	if got, want := parsed(t, blocks[0][1]), parsed(t, "command: [sleep, \"60\"]"); !reflect.DeepEqual(got, want) {
		t.Errorf("the synopsis is %+v\nwant %+v", got, want)
	}
	if got, want := parsed(t, blocks[1][1]), parsed(t, "image: docker://docker.io/library/alpine:3"); !reflect.DeepEqual(got, want) {
		t.Errorf("the synopsis of a container is %+v\nwant %+v", got, want)
	}
}

func TestTheNamesOfTheManualAreThoseOfTheDecoder(t *testing.T) {
	paragraphs := manualKeys(t, readManual(t))
	var named []string
	for _, m := range regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(paragraphs["rlimits"], -1) {
		if _, ok := RlimitNumber(m[1]); ok {
			named = append(named, m[1])
		}
	}
	if !slices.Equal(named, rlimitNames) {
		t.Errorf("rlimits: %q, want %q", named, rlimitNames)
	}
	for profile, caps := range profileCapabilities {
		last := len(caps) - 1
		want := fmt.Sprintf("%s and %s", strings.Join(caps[:last], ", "), caps[last])
		if !strings.Contains(oneSpaced(paragraphs["security.profile"]), want) {
			t.Errorf("profile %s: the manual does not name %s", profile, want)
		}
	}
}
