package image

import (
	"context"
	"errors"
	"slices"
	"strconv"
)

// Refresh asks where the image of a reference comes from what the reference means now,
// and pulls that if it is not here. The reference moves to it: the image that it meant
// before stays, without it. What is asked is asked anew by each who calls; what has to be
// fetched is fetched once. For the rest it is as Ensure.
func (s *Store) Refresh(ctx context.Context, ref Ref, tell func(Progress)) (img *Image, release func(), err error) {
	for {
		p := &progress{}
		// A pull that is under way has asked before, and may have been told of the image
		// before: so it is not joined.
		key := "refresh " + strconv.FormatUint(s.serial.Add(1), 10)
		img, release, err = s.leased(ctx, key, p, tell, func(ctx context.Context) (*Image, error) {
			return s.pull(ctx, ref, p)
		})
		if release != nil || err != nil {
			return img, release, err
		}
	}
}

// Newest is Refresh, but returns the image that is known when it cannot be asked for, or
// got. The error is then why, beside the image.
func (s *Store) Newest(ctx context.Context, ref Ref, tell func(Progress)) (img *Image, release func(), err error) {
	img, release, err = s.Refresh(ctx, ref, tell)
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrClosed) {
		return img, release, err
	}
	known, release, kerr := s.known(ref)
	if known == nil {
		return nil, nil, errors.Join(err, kerr)
	}
	return known, release, err
}

// Prune removes the images that no reference means any more, or with all of them all
// images, but for those that are used; see Remove. It returns the names of what it
// removed, also beside an error.
func (s *Store) Prune(all bool, inUse func(digest string) (by string, ok bool)) (removed []string, err error) {
	for _, i := range slices.Clone(s.List()) {
		if len(i.Refs) > 0 && !all {
			continue
		}
		switch err := s.Remove(i.Name, inUse); {
		case err == nil:
			removed = append(removed, i.Name)
		case !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotFound):
			return removed, err
		}
	}
	return removed, nil
}
