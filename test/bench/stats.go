package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// A side is one of the things that are compared. Its function does the work once and returns how
// long the measured part took.
type side struct {
	name string
	run  func() (time.Duration, error)
}

// interleave runs the sides in turn, for so many rounds, after a few that do not count. The result
// has one series per side, and entry i of each is from round i.
func (b *bench) interleave(ctx context.Context, rounds int, sides ...side) ([][]time.Duration, error) {
	warm := min(3, rounds)
	series := make([][]time.Duration, len(sides))
	for round := range warm + rounds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b.alive()
		for i, s := range sides {
			took, err := s.run()
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", s.name, round, err)
			}
			if round >= warm {
				series[i] = append(series[i], took)
			}
		}
	}
	return series, nil
}

// quantile returns the entry at this share of the sorted series: always one that was measured.
func quantile[T cmp.Ordered](series []T, share float64) T {
	sorted := slices.Sorted(slices.Values(series))
	return sorted[int(share*float64(len(sorted)-1))]
}

func median[T cmp.Ordered](series []T) T {
	return quantile(series, 0.5)
}

// ratios divides the series round by round.
func ratios(ours, peer []time.Duration) []float64 {
	r := make([]float64, len(ours))
	for i := range ours {
		r[i] = float64(ours[i]) / float64(peer[i])
	}
	return r
}
