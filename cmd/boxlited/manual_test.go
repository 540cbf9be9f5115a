package main

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
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
