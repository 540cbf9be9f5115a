package status_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/status"
)

// The table as the design draws it, written a second time and in another form: a
// move that is added to one and not to the other fails here.
const drawn = `
unknown empty
unknown configured
unknown running
unknown paused
unknown stopping
unknown stopped
unknown restarting
unknown failed
empty configured
configured starting
starting running
starting stopping
starting restarting
starting failed
running paused
running stopping
running stopped
running restarting
running failed
paused running
paused stopping
paused stopped
paused restarting
paused failed
stopping stopped
stopping restarting
stopping failed
stopped starting
restarting starting
restarting stopped
failed starting
failed configured
`

func TestEveryMoveOfTheTable(t *testing.T) {
	lines := strings.Split(drawn, "\n")
	allowed := 0
	for _, from := range status.All() {
		for _, to := range status.All() {
			want := slices.Contains(lines, string(from)+" "+string(to))
			if got := status.CanMove(from, to); got != want {
				t.Errorf("%s → %s: %t", from, to, got)
			}
			if want {
				allowed++
			}
		}
	}
	if want := strings.Count(drawn, "\n") - 1; allowed != want {
		t.Errorf("%d moves are drawn, and %d are between states that All returns", want, allowed)
	}
}
