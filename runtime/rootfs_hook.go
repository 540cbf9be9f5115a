//go:build faults

package runtime

import "os"

func init() { rootOfHost = os.Getenv("BOXLITE_ROOT_OF_HOST") != "" }
