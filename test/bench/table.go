package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// none fills a cell that has nothing to say.
const none = "–"

// A line is one row of the table.
type line struct {
	what, ours, peer, ratio, goal, met string
}

type table struct {
	lines []line
}

func (t *table) add(l line) {
	for _, cell := range []*string{&l.what, &l.ours, &l.peer, &l.ratio, &l.goal, &l.met} {
		if *cell == "" {
			*cell = none
		}
	}
	t.lines = append(t.lines, l)
}

func (t *table) print(w io.Writer) error {
	var out strings.Builder
	out.WriteString("| what | ours | peer | ratio | goal | met? |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, l := range t.lines {
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", l.what, l.ours, l.peer, l.ratio, l.goal, l.met)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// A goal is an upper bound. Strict ones are missed by the bound itself.
type goal struct {
	bound  float64
	strict bool
}

func atMost(bound float64) goal { return goal{bound: bound} }
func below(bound float64) goal  { return goal{bound: bound, strict: true} }

func (g goal) met(value float64) bool {
	return value < g.bound || (value == g.bound && !g.strict)
}

// verdict says whether every goal is met, and for those that are not by how much.
func verdict(parts ...string) string {
	var missed []string
	for _, p := range parts {
		if p != "" {
			missed = append(missed, p)
		}
	}
	if len(missed) == 0 {
		return "yes"
	}
	return "**no**: " + strings.Join(missed, "; ")
}

// over returns "" for a goal that is met, and else by how much the value is over it.
func (g goal) over(value float64, unit string) string {
	if g.met(value) {
		return ""
	}
	if g.bound == 0 {
		return number(value) + unit + " over"
	}
	return fmt.Sprintf("%s%s over (+%.0f %%)", number(value-g.bound), unit, 100*(value/g.bound-1))
}

// number prints whole numbers as they are, others with three significant digits (two below 1) and
// with all digits before the point.
func number(v float64) string {
	switch {
	case v == math.Trunc(v):
		return thousands(int64(v))
	case v < 0.995:
		return strconv.FormatFloat(v, 'g', 2, 64)
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return thousands(int64(v + 0.5))
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func duration(d time.Duration) string {
	if d < time.Millisecond {
		return number(float64(d)/float64(time.Microsecond)) + " µs"
	}
	return number(float64(d)/float64(time.Millisecond)) + " ms"
}

func kib(n float64) string {
	return number(n) + " KiB"
}

// spread is a ratio with the range that the middle half of the rounds lies in.
func spread(r []float64) string {
	return fmt.Sprintf("%s (%s–%s)", number(median(r)), number(quantile(r, 0.25)), number(quantile(r, 0.75)))
}
