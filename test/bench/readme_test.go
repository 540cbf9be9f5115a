package main

import (
	"os"
	"strings"
	"testing"
)

// The results have a section for each benchmark, with the command that makes its table.
func TestTheResultsHaveEachBenchmark(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, results, ok := strings.Cut(string(text), "\n## Results\n")
	results, _, ends := strings.Cut(results, "\n## ")
	if !ok || !ends {
		t.Fatal("README.md has no section Results, or nothing follows it")
	}
	var head strings.Builder
	if err := (&table{}).print(&head); err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(results, "\n### ")[1:]
	for i, m := range benchmarks {
		begin := m.name + "\n\n`scripts/bench " + m.name + "`\n\n" + head.String() + "| "
		if i >= len(sections) || !strings.HasPrefix(sections[i], begin) {
			t.Errorf("section %d of the results does not begin with %q", i+1, begin)
		}
	}
	if len(sections) > len(benchmarks) {
		t.Errorf("the results have %d sections, and there are %d benchmarks", len(sections), len(benchmarks))
	}
}
