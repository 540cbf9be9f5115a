package wire

import "strconv"

// Where the shim of a container has what config.json names.
const (
	// ContainerRoot is the root file system.
	ContainerRoot = ContainerDir + "/root"
	// UserNamespace is the user namespace of the container, with its ids mapped.
	UserNamespace = ContainerDir + "/userns"
	// PIDNamespace and NetworkNamespace are those of the init, if the container has one.
	PIDNamespace     = ContainerDir + "/pidns"
	NetworkNamespace = ContainerDir + "/netns"
	// ContainerDir is where all that is made for the container is, and PrivateDir the
	// directory around it that is covered in the shim's mount namespace.
	ContainerDir = PrivateDir + "/box"
	PrivateDir   = "/run"
	// ContainerState is the runtime's own state.
	ContainerState = ContainerDir + "/state"
	// ContainerMounts and ContainerFiles are the directories of ContainerMount and
	// ContainerFile.
	ContainerMounts = ContainerDir + "/mounts"
	ContainerFiles  = ContainerDir + "/files"
)

// ContainerMount is where Spec.Mounts[i] is.
func ContainerMount(i int) string { return ContainerMounts + "/" + strconv.Itoa(i) }

// ContainerFile is where a file of Container.Files is.
func ContainerFile(name string) string { return ContainerFiles + "/" + name }

// ContainerFilter is where crun has the compiled seccomp filter of a box's container.
func ContainerFilter(box string) string { return ContainerState + "/" + box + "/seccomp.bpf" }
