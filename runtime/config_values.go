package runtime

import (
	"fmt"
	"math"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/agnivade/levenshtein"
	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

// isConfigNull reports whether a node has no value: nothing, ~ or null.
func isConfigNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// configKind names what a node is, for messages.
func configKind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a map"
	}
	switch n.Tag {
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "empty"
	}
	return "a string"
}

// showConfigKey shortens a key for a message. It hides what follows a "=": in
// an env written as NAME=value that is a value.
func showConfigKey(name string) string {
	if before, _, has := strings.Cut(name, "="); has {
		name = before + "=..."
	}
	const most = 64
	if r := []rune(name); len(r) > most {
		name = string(r[:most]) + "..."
	}
	return name
}

// hasControl reports whether a text holds a control character or a line break.
func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || r == 0x2028 || r == 0x2029
	})
}

// nearestWord returns the word that was probably meant, or "".
func nearestWord(word string, words []string) string {
	const longest = 64
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, found := max(1, len(word)/3)+1, ""
	for _, w := range words {
		if n := levenshtein.ComputeDistance(word, strings.ToLower(w)); n < best && n < len(w) {
			best, found = n, w
		}
	}
	return found
}

// didYouMean returns a hint to put after a message: the near word, or all.
func didYouMean(near string, words []string) string {
	if near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return fmt.Sprintf(" (known: %s)", strings.Join(words, ", "))
}

// A number, one space or none, and a unit or none.
var configSize = regexp.MustCompile(`^[0-9]+(\.[0-9]+)? ?[a-zA-Z]*$`)

// setConfigSize takes a size in bytes of at least least. That is also named
// in the message, as leastText.
func setConfigSize(to *int64, least int64, leastText string) func(string) error {
	return func(text string) error {
		// "10" is too small where the next line may bring the "MiB".
		grow := func(format string, args ...any) error {
			return &configGrowError{fmt.Errorf(format, args...)}
		}
		v, err := humanize.ParseBytes(text)
		switch {
		case strings.HasPrefix(text, "-"):
			return grow("%q is negative: write it like 10MiB", showConfigKey(text))
		case !configSize.MatchString(text):
			return grow("%q is no size: write it like 64KiB, 10MiB or 2GB", showConfigKey(text))
		case err != nil && strings.Trim(text, "0123456789.") == "":
			return grow("%q is too large", showConfigKey(text))
		case err != nil:
			return grow("%q is no size or too large: write it like 64KiB, 10MiB or 2GB", showConfigKey(text))
		case v > math.MaxInt64:
			return grow("%q is too large", showConfigKey(text))
		case int64(v) < least:
			return grow("%q is too small: it must be at least %s", showConfigKey(text), leastText)
		}
		*to = int64(v)
		return nil
	}
}

// Real-time signals as user space counts them: the C library keeps 32 and 33.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// signalNames are the standard signals without SIG, for suggestions.
var signalNames = func() (names []string) {
	for n := syscall.Signal(1); n < 32; n++ {
		if name := unix.SignalName(n); name != "" {
			names = append(names, strings.TrimPrefix(name, "SIG"))
		}
	}
	return names
}()

// ParseSignal returns the signal of a name, with or without SIG, or of a
// number: TERM, sigterm, 15; RTMIN+1 and RTMAX-1 count from 34 and 64.
func ParseSignal(text string) (syscall.Signal, error) {
	unknown := func(hint string) error {
		return fmt.Errorf("unknown signal %q%s", showConfigKey(text), hint)
	}
	if text != "" && strings.Trim(text, "0123456789") == "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > sigRTMax || (n > 31 && n < sigRTMin) {
			return 0, unknown(" (signals are 1 to 31 and 34 to 64)")
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	if n, ok := realtimeSignal(name); ok {
		return n, nil
	}
	if near := nearestWord(name, signalNames); near != "" {
		return 0, unknown(fmt.Sprintf(" (did you mean %q?)", near))
	}
	return 0, unknown(" (write it like TERM, SIGTERM or 15)")
}

// realtimeSignal reads RTMIN, RTMIN+n, RTMAX and RTMAX-n.
func realtimeSignal(name string) (syscall.Signal, bool) {
	base, sign, plus := sigRTMin, 1, "+"
	rest, ok := strings.CutPrefix(name, "RTMIN")
	if !ok {
		base, sign, plus = sigRTMax, -1, "-"
		rest, ok = strings.CutPrefix(name, "RTMAX")
	}
	if !ok || rest == "" {
		return syscall.Signal(base), ok
	}
	digits, ok := strings.CutPrefix(rest, plus)
	if !ok || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > sigRTMax-sigRTMin {
		return 0, false
	}
	return syscall.Signal(base + sign*n), true
}

var rlimitNumbers = map[string]int{
	"as":         unix.RLIMIT_AS,
	"core":       unix.RLIMIT_CORE,
	"cpu":        unix.RLIMIT_CPU,
	"data":       unix.RLIMIT_DATA,
	"fsize":      unix.RLIMIT_FSIZE,
	"locks":      unix.RLIMIT_LOCKS,
	"memlock":    unix.RLIMIT_MEMLOCK,
	"msgqueue":   unix.RLIMIT_MSGQUEUE,
	"nice":       unix.RLIMIT_NICE,
	"nofile":     unix.RLIMIT_NOFILE,
	"nproc":      unix.RLIMIT_NPROC,
	"rss":        unix.RLIMIT_RSS,
	"rtprio":     unix.RLIMIT_RTPRIO,
	"rttime":     unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING,
	"stack":      unix.RLIMIT_STACK,
}

var rlimitNames = func() (names []string) {
	for name := range rlimitNumbers {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}()

// RlimitNumber returns the resource of setrlimit(2) that a name in
// Config.Rlimits stands for.
func RlimitNumber(name string) (resource int, ok bool) {
	resource, ok = rlimitNumbers[name]
	return resource, ok
}

// capabilityNames are the names of capabilities(7) by number, without CAP_.
var capabilityNames = [...]string{
	unix.CAP_CHOWN:              "CHOWN",
	unix.CAP_DAC_OVERRIDE:       "DAC_OVERRIDE",
	unix.CAP_DAC_READ_SEARCH:    "DAC_READ_SEARCH",
	unix.CAP_FOWNER:             "FOWNER",
	unix.CAP_FSETID:             "FSETID",
	unix.CAP_KILL:               "KILL",
	unix.CAP_SETGID:             "SETGID",
	unix.CAP_SETUID:             "SETUID",
	unix.CAP_SETPCAP:            "SETPCAP",
	unix.CAP_LINUX_IMMUTABLE:    "LINUX_IMMUTABLE",
	unix.CAP_NET_BIND_SERVICE:   "NET_BIND_SERVICE",
	unix.CAP_NET_BROADCAST:      "NET_BROADCAST",
	unix.CAP_NET_ADMIN:          "NET_ADMIN",
	unix.CAP_NET_RAW:            "NET_RAW",
	unix.CAP_IPC_LOCK:           "IPC_LOCK",
	unix.CAP_IPC_OWNER:          "IPC_OWNER",
	unix.CAP_SYS_MODULE:         "SYS_MODULE",
	unix.CAP_SYS_RAWIO:          "SYS_RAWIO",
	unix.CAP_SYS_CHROOT:         "SYS_CHROOT",
	unix.CAP_SYS_PTRACE:         "SYS_PTRACE",
	unix.CAP_SYS_PACCT:          "SYS_PACCT",
	unix.CAP_SYS_ADMIN:          "SYS_ADMIN",
	unix.CAP_SYS_BOOT:           "SYS_BOOT",
	unix.CAP_SYS_NICE:           "SYS_NICE",
	unix.CAP_SYS_RESOURCE:       "SYS_RESOURCE",
	unix.CAP_SYS_TIME:           "SYS_TIME",
	unix.CAP_SYS_TTY_CONFIG:     "SYS_TTY_CONFIG",
	unix.CAP_MKNOD:              "MKNOD",
	unix.CAP_LEASE:              "LEASE",
	unix.CAP_AUDIT_WRITE:        "AUDIT_WRITE",
	unix.CAP_AUDIT_CONTROL:      "AUDIT_CONTROL",
	unix.CAP_SETFCAP:            "SETFCAP",
	unix.CAP_MAC_OVERRIDE:       "MAC_OVERRIDE",
	unix.CAP_MAC_ADMIN:          "MAC_ADMIN",
	unix.CAP_SYSLOG:             "SYSLOG",
	unix.CAP_WAKE_ALARM:         "WAKE_ALARM",
	unix.CAP_BLOCK_SUSPEND:      "BLOCK_SUSPEND",
	unix.CAP_AUDIT_READ:         "AUDIT_READ",
	unix.CAP_PERFMON:            "PERFMON",
	unix.CAP_BPF:                "BPF",
	unix.CAP_CHECKPOINT_RESTORE: "CHECKPOINT_RESTORE",
}

// CapabilityByName returns the number of a capability, named with or without
// CAP_ and in any case.
func CapabilityByName(name string) (int, error) {
	short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	for n, known := range capabilityNames {
		if short == known {
			return n, nil
		}
	}
	hint := " (see capabilities(7))"
	if near := nearestWord(short, capabilityNames[:]); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	return 0, fmt.Errorf("unknown capability %q%s", showConfigKey(name), hint)
}

// allCapabilities stands for every capability there is.
const allCapabilities = "ALL"

// canonicalCapability returns the name as Capabilities holds it.
func canonicalCapability(name string) (string, error) {
	if strings.EqualFold(name, allCapabilities) {
		return allCapabilities, nil
	}
	n, err := CapabilityByName(name)
	if err != nil {
		return "", err
	}
	return "CAP_" + capabilityNames[n], nil
}

// Capabilities says what is taken from a box's set of capabilities and what is
// then given back. The names are like CAP_NET_RAW, or ALL.
type Capabilities struct {
	Add, Drop []string
}

// Mask applies c to the kernel's capabilities all, in which bit N stands for
// capability N. keep is what the command's bounding set holds, and what root
// has: everything but Drop, and then Add. ambient is what a command of another
// user than root gets: Add only; it is 0 for root. What the kernel does not
// have is left out.
func (c Capabilities) Mask(all uint64, root bool) (keep, ambient uint64) {
	add := capabilityMask(c.Add)
	keep = (all&^capabilityMask(c.Drop) | add) & all
	if !root {
		ambient = add & all
	}
	return keep, ambient
}

// capabilityMask is the set of the names. Names come from ParseConfig, which
// has refused the unknown ones.
func capabilityMask(names []string) (mask uint64) {
	for _, name := range names {
		if name == allCapabilities {
			return ^uint64(0)
		}
		if n, err := CapabilityByName(name); err == nil {
			mask |= 1 << n
		}
	}
	return mask
}
