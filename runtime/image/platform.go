package image

import (
	"fmt"
	"runtime"

	"github.com/klauspost/cpuid/v2"
)

// processorLevel is how much more than the least of its architecture this processor can:
// 1 is amd64/v2, and so on.
var processorLevel = max(0, cpuid.CPU.X64Level()-1)

// level says what a variant of this architecture asks of a processor: 0 is nothing, and -1
// that it is not known.
func level(variant string) int {
	switch {
	case variant == "", runtime.GOARCH == "arm64" && variant == "v8":
		return 0
	case runtime.GOARCH != "amd64" || len(variant) != 2 || variant[0] != 'v' || variant[1] < '1' || variant[1] > '4':
		return -1
	}
	return int(variant[1] - '1')
}

// platformName is this host as an index calls it.
func platformName() string {
	if processorLevel > 0 {
		return fmt.Sprintf("linux/%s/v%d", runtime.GOARCH, processorLevel+1)
	}
	return "linux/" + runtime.GOARCH
}
