package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxlitefs/boxlite/runtime/config"
)

// capabilities returns those of a process in a container. all are those that there are to give,
// bit N being capability N.
func capabilities(s *config.Security, all uint64, root bool) *specs.LinuxCapabilities {
	base, add, drop := config.CapabilityMask(config.ProfileCapabilities(s.Profile)), config.CapabilityMask(s.Capabilities.Add), config.CapabilityMask(s.Capabilities.Drop)
	names := config.CapabilityNames((base&^drop | add) & all)
	sets := &specs.LinuxCapabilities{Bounding: names}
	if root {
		sets.Effective, sets.Permitted = names, names
		return sets
	}
	// As on engine host: another user has what was asked for.
	names = config.CapabilityNames(add & all)
	sets.Effective, sets.Permitted, sets.Inheritable, sets.Ambient = names, names, names, names
	return sets
}
