package oci

import (
	"slices"
	"strings"
)

// DefaultPath is the PATH of a command that is given none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environ is an environment as KEY=VALUE, sorted.
func Environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}

// parseEnv is an environment that is given as KEY=VALUE. What has no "=" is left out.
func parseEnv(list []string) map[string]string {
	env := map[string]string{}
	for _, kv := range list {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}
