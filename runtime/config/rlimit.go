package config

import (
	"sort"

	"golang.org/x/sys/unix"
)

// RlimitInfinity is the value of a resource limit that is unlimited.
const RlimitInfinity = ^uint64(0)

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
