package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// conditions says what the numbers depend on.
func (b *bench) conditions() string {
	facts := machine(b.dir)
	if len(b.used) > 0 {
		facts = append(facts, "peers: "+strings.Join(b.used, ", "))
	}
	if len(b.counted) > 0 {
		facts = append(facts, "medians of interleaved rounds: "+strings.Join(b.counted, ", ")+
			"; a ratio is the median of the rounds' ratios, in parentheses the middle half of them")
	}
	return strings.Join(facts, " · ")
}

// machine describes what the bench ran on.
func machine(stateDir string) []string {
	facts := []string{kernel(), fmt.Sprintf("%d cores", runtime.NumCPU())}
	if model := value("/proc/cpuinfo", "model name", ":"); model != "" {
		facts[1] += " " + model
	}
	if name := value("/etc/os-release", "PRETTY_NAME", "="); name != "" {
		facts = append(facts, name)
	}
	return append(facts, runtime.Version(), "state on "+filesystem(stateDir))
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown kernel"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// value returns the first value of a key in a file of lines, "" if there is none.
func value(file, key, separator string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(text) {
		name, rest, ok := strings.Cut(string(line), separator)
		if ok && strings.TrimSpace(name) == key {
			return strings.Trim(strings.TrimSpace(rest), `"`)
		}
	}
	return ""
}

// filesystem names what a directory is on: what an fsync costs depends on it.
func filesystem(dir string) string {
	mounts, err := readMounts()
	if err != nil {
		return "an unknown filesystem"
	}
	var best mount
	for _, m := range mounts {
		inside := m.point == "/" || dir == m.point || strings.HasPrefix(dir, m.point+"/")
		if inside && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best.kind
}
