package oci

import (
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Process is the process of a container, with what the execs in it have to know, also those of
// the next daemon. It is kept as JSON.
type Process struct {
	specs.Process
	Image  string   `json:"imageDigest,omitempty"`  // that the container was made from
	Mounts []string `json:"mountTargets,omitempty"` // absolute
	// StopSignal is what a stop sends; 0 on the record of an older boxlite, which sent SIGTERM
	// if the configuration did not say.
	StopSignal syscall.Signal `json:"stopSignal,omitempty"`
	// HomeSet says that HOME is that of the configuration or the image, whoever the user.
	HomeSet bool `json:"homeSet,omitempty"`
}
