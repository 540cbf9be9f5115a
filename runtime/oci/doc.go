// Package oci makes what an OCI runtime (crun, runc) runs a container from: the process, the
// config.json, and the files and seccomp filter that go with it. They come from a box's
// configuration, its image, and the ids and cgroup that the box has been given.
package oci
