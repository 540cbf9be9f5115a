package cgroup

// DeviceRules are the devices that a container may use: null, zero, full, random,
// urandom, tty, ptmx and the terminals.
var DeviceRules = []string{"c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:2", "c 136:*"}
