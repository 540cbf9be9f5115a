package main

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/fsapi"
	"github.com/boxlitefs/boxlite/runtime"
)

// definitions returns the definition lists of Markdown: what is said of each term. Terms have
// their markup.
func definitions(markdown string) map[string]string {
	found := map[string]string{}
	for block := range strings.SplitSeq(markdown, "\n\n") {
		if term, said, is := strings.Cut(strings.TrimSpace(block), "\n: "); is {
			found[term] = strings.Join(strings.Fields(said), " ")
		}
	}
	return found
}

// matches returns what the group of a pattern is in all terms: "--mount" of "**--mount** *DIR*".
func matches(defined map[string]string, pattern string) map[string]bool {
	found := map[string]bool{}
	for term := range defined {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(term, -1) {
			found[m[1]] = true
		}
	}
	return found
}

// alike reports what only the page has, and what only the code has.
func alike(t *testing.T, kind string, page, code map[string]bool) {
	t.Helper()
	for name := range code {
		if !page[name] {
			t.Errorf("the page has no paragraph on %s %s", kind, name)
		}
	}
	for name := range page {
		if !code[name] {
			t.Errorf("the page has a paragraph on %s %s, which is not there", kind, name)
		}
	}
}

// inspect shows each node of the files of this package that a pattern names, but of tests.
func inspect(t *testing.T, pattern string, see func(ast.Node)) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool { see(n); return true })
	}
}

func TestEachFlagIsInTheManual(t *testing.T) {
	var level, ids string
	code := map[string]bool{"--help": true} // package flag's own
	defined := definitions(section(manual, "OPTIONS"))
	synopsis := section(manual, "SYNOPSIS")
	flags(&options{}, &level, &ids).VisitAll(func(f *flag.Flag) {
		code["--"+f.Name] = true
		if !strings.Contains(synopsis, "**--"+f.Name+"**") {
			t.Errorf("the synopsis has no --%s", f.Name)
		}
		if f.DefValue == "" || f.DefValue == "false" {
			return
		}
		for term, said := range defined {
			if strings.HasPrefix(term, "**--"+f.Name+"**") && !strings.Contains(said, "default is `"+f.DefValue+"`") {
				t.Errorf("the paragraph on --%s does not say that the default is %s", f.Name, f.DefValue)
			}
		}
	})
	alike(t, "the flag", matches(defined, `^\*\*(--[a-z-]+)\*\*`), code)
}

func TestEachExitCodeIsInTheManual(t *testing.T) {
	code := map[string]bool{}
	inspect(t, "exit.go", func(n ast.Node) {
		spec, is := n.(*ast.ValueSpec)
		if !is || !strings.HasPrefix(spec.Names[0].Name, "exit") {
			return
		}
		if value, is := spec.Values[0].(*ast.BasicLit); is {
			code[value.Value] = true
		}
	})
	if len(code) <= exitBug {
		t.Errorf("of %d exit codes at least only %d were found in exit.go", exitBug+1, len(code))
	}
	alike(t, "the exit status", matches(definitions(section(manual, "EXIT STATUS")), `^\*\*([0-9]+)\*\*$`), code)
}

func TestEachSignalIsInTheManual(t *testing.T) {
	code := map[string]bool{}
	inspect(t, "*.go", func(n ast.Node) {
		if s, is := n.(*ast.SelectorExpr); is && strings.HasPrefix(s.Sel.Name, "SIG") {
			code[s.Sel.Name] = true
		}
	})
	if !code["SIGTERM"] {
		t.Errorf("no SIGTERM was found in the code, but %v", code)
	}
	alike(t, "the signal", matches(definitions(section(manual, "SIGNALS")), `\*\*(SIG[A-Z0-9]+)\*\*`), code)
}

func TestTheHelpIsPlainText(t *testing.T) {
	help := usage()
	for _, name := range helpSections {
		if section(manual, name) == "" {
			t.Errorf("the manual has no section %s", name)
		}
	}
	for line := range strings.Lines(help) {
		line = strings.TrimSuffix(line, "\n")
		if utf8.RuneCountInString(line) > helpWidth || strings.HasSuffix(line, " ") || strings.Contains(line, "**") || strings.ContainsRune(line, '`') {
			t.Errorf("a line that is too long, or has markup, or a blank at its end: %q", line)
		}
	}
	for _, part := range []string{
		"\nSynopsis:\n  boxlited [--mount DIR] [--state DIR] ", "\n           [--", "\n  boxlited --version\n",
		"\nOptions:\n  --mount DIR\n      Mounts ", "\nSignals:\n  SIGTERM, SIGINT, SIGHUP\n      ",
		"\nExit status:\n  0   Ended ", "\nExamples:\n", "\n      echo start > web/ctl ",
	} {
		if !strings.Contains(help, part) {
			t.Errorf("the help has no %q:\n%s", part, help)
		}
	}
	for _, part := range []string{"Description", "How a box is started"} {
		if strings.Contains(help, part) {
			t.Errorf("the help has %q, which is not about calls", part)
		}
	}
}

// metricsManual is the page boxlite-metrics(7).
func metricsManual(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("boxlite-metrics.7.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// allMetrics returns a registry with all that a daemon has in it.
func allMetrics(t *testing.T) *prometheus.Registry {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(t.Output())
	log := logrus.NewEntry(logger)
	reg := newRegistry(newLogQueue(io.Discard))
	ctl := fsapi.New("", log, reg)
	metricsHandler(ctl, reg, nil)
	rt, err := runtime.Open(runtime.Options{State: t.TempDir(), CgroupParent: "/boxlite-manual-test", Log: log, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeRuntime(rt); err != nil {
			t.Error(err)
		}
	})
	if _, err := rt.Create("x"); err != nil {
		t.Fatal(err)
	}
	return reg
}

// described returns the series of a registry, also those of boxes, which are gathered only where
// a box runs, with the names of their labels.
func described(t *testing.T, reg *prometheus.Registry) map[string]string {
	t.Helper()
	pattern := regexp.MustCompile(`fqName: "([^"]*)".* constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	descs := make(chan *prometheus.Desc)
	go func() { reg.Describe(descs); close(descs) }()
	found := map[string]string{}
	for desc := range descs {
		m := pattern.FindStringSubmatch(desc.String())
		if m == nil {
			t.Fatalf("prometheus says in another way what a series is: %s", desc)
		}
		var names []string
		for label := range strings.SplitSeq(m[2]+","+m[3], ",") {
			if name, _, _ := strings.Cut(label, "="); name != "" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		found[m[1]] = strings.Join(names, ", ")
	}
	return found
}

func TestEachSeriesIsInTheManual(t *testing.T) {
	page := metricsManual(t)
	reg := allMetrics(t)
	code := described(t, reg)
	types := map[string]string{} // of those that are there without a box that runs
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		types[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	// Those of the Go runtime are the library's, and change with it.
	others := strings.Contains(page, "\n**go_\\*** (")
	named := map[string]bool{}
	pattern := regexp.MustCompile(`^\*\*([a-z_]+)\*\* \((counter|gauge|histogram), [a-z0-9 ]+(?:; labels? ([a-z*, ]+))?\)$`)
	for term := range definitions(section(page, "SERIES")) {
		m := pattern.FindStringSubmatch(term)
		if m == nil {
			if !strings.HasPrefix(term, `**go_\***`) {
				t.Errorf("this is no NAME (TYPE, UNIT; labels NAME, NAME): %s", term)
			}
			continue
		}
		name, kind, labels := m[1], m[2], strings.ReplaceAll(m[3], "*", "")
		named[name] = true
		if has, is := code[name]; is && labels != has {
			t.Errorf("%s has the labels %q and not, as the page says, %q", name, has, labels)
		}
		if has, is := types[name]; is && kind != has {
			t.Errorf("%s is a %s and not, as the page says, a %s", name, has, kind)
		}
	}
	for name := range code {
		if others && strings.HasPrefix(name, "go_") {
			continue
		}
		if !named[name] {
			t.Errorf("the page has no paragraph on %s", name)
		}
	}
	for name := range named {
		if _, is := code[name]; !is {
			t.Errorf("the page has a paragraph on %s, which is not there", name)
		}
	}
}

func TestEachLabelIsInTheManual(t *testing.T) {
	reg := allMetrics(t)
	labels := section(metricsManual(t), "LABELS")
	terms := matches(definitions(labels), `\*\*([a-z]+)\*\*`)
	for series, names := range described(t, reg) {
		if strings.HasPrefix(series, "go_") {
			continue
		}
		for name := range strings.SplitSeq(names, ", ") {
			if name != "" && !terms[name] && !strings.Contains(labels, "### The label "+name+" of "+series+"\n") {
				t.Errorf("the page has no paragraph on the label %s of %s", name, series)
			}
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "boxlite_build_info" || strings.HasPrefix(f.GetName(), "go_") || l.GetName() == "box" {
					continue
				}
				if !strings.Contains(labels, "`"+l.GetValue()+"`") && !strings.Contains(labels, "**"+l.GetValue()+"**") {
					t.Errorf("the page does not say what %s=%q of %s is", l.GetName(), l.GetValue(), f.GetName())
				}
			}
		}
	}
}
