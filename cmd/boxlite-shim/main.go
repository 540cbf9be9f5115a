// Boxlite-shim is the init process of one box. It is started by boxlited; see
// package shim.

// GOMAXPROCS is 1 whatever the cgroup allows. Without this the runtime would
// keep two files of the cgroup open in every box, and their mount busy.
//
//go:debug containermaxprocs=0
package main

import "github.com/boxlitefs/boxlite/shim"

func main() { shim.Main() }
