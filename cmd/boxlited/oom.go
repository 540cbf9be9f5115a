package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// oomScore is what the OOM killer is told of the daemon: take all others first, but for
// the shims, which have one less.
const oomScore = -999

// shield ranks the daemon before all boxes, if it has CAP_SYS_RESOURCE. It returns the
// score that boxes get instead: that which the daemon was started with, if it is a
// handicap.
func shield() (boxes int, err error) {
	const file = "/proc/self/oom_score_adj"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	if score > oomScore {
		err = os.WriteFile(file, []byte(strconv.Itoa(oomScore)), 0)
		if errors.Is(err, syscall.EACCES) {
			err = nil // package runtime says what it means that the capability is missing
		}
	}
	return max(score, 0), err
}
