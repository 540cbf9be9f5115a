package config

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

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
		return fmt.Errorf("unknown signal %q%s", showKey(text), hint)
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

// SignalFor returns what a stop sends to a command. image is the stop signal that its image
// names, or empty. A name that is none counts as SIGTERM, as it does for Docker.
func (s Stop) SignalFor(image string) syscall.Signal {
	if s.Signal != 0 {
		return s.Signal
	}
	if sig, err := ParseSignal(image); image != "" && err == nil {
		return sig
	}
	return syscall.SIGTERM
}

// SignalName returns the name of a signal, like SIGTERM, or its number where it has none.
func SignalName(s syscall.Signal) string {
	if n := unix.SignalName(s); n != "" {
		return n
	}
	return "signal " + strconv.Itoa(int(s))
}
