package config

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

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

// capabilityByName returns the number of a capability, named with or without
// CAP_ and in any case.
func capabilityByName(name string) (int, error) {
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
	return 0, fmt.Errorf("unknown capability %q%s", showKey(name), hint)
}

// allCapabilities stands for every capability there is.
const allCapabilities = "ALL"

// canonicalCapability returns the name as Capabilities holds it.
func canonicalCapability(name string) (string, error) {
	if strings.EqualFold(name, allCapabilities) {
		return allCapabilities, nil
	}
	n, err := capabilityByName(name)
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
	add := CapabilityMask(c.Add)
	keep = (all&^CapabilityMask(c.Drop) | add) & all
	if !root {
		ambient = add & all
	}
	return keep, ambient
}

// CapabilityMask returns the set of the names, in which bit N stands for capability N. ALL is
// every one. An unknown name is left out: Parse has refused it.
func CapabilityMask(names []string) (mask uint64) {
	for _, name := range names {
		if name == allCapabilities {
			return ^uint64(0)
		}
		if n, err := capabilityByName(name); err == nil {
			mask |= 1 << n
		}
	}
	return mask
}

var profileCapabilities = map[string][]string{
	// Docker's: what the packages of distributions and official images expect of root. They
	// count in the container's user namespace alone.
	ProfileDefault: {
		"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
		"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
	},
	// The least that the OCI's own example of a configuration has.
	ProfileStrict: {"AUDIT_WRITE", "KILL", "NET_BIND_SERVICE"},
}

// ProfileCapabilities returns the names of the capabilities that a container has to begin
// with, by its profile, without CAP_.
func ProfileCapabilities(profile string) []string { return profileCapabilities[profile] }

// CapabilityNames returns the names of the capabilities in a mask, like CAP_KILL, in the order
// of their numbers.
func CapabilityNames(mask uint64) []string {
	names := []string{}
	for n, name := range capabilityNames {
		if mask&(1<<n) != 0 {
			names = append(names, "CAP_"+name)
		}
	}
	return names
}
