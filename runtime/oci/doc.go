// Package oci makes what an OCI runtime (crun, runc) takes of a container.
package oci
