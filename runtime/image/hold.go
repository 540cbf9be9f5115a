package image

import (
	"errors"
	"io/fs"
	"os"
	"slices"
)

// hold keeps what there is of a blob from being removed until done is called.
func (s *registrySource) hold(hex string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.held, s.store.blobPath(hex)) {
		return
	}
	paths := []string{s.store.blobPath(hex), s.store.partPath(hex, s.registry())}
	s.held = append(s.held, paths...)
	s.store.naming.Lock()
	defer s.store.naming.Unlock()
	for _, path := range paths {
		s.store.held[path]++
	}
}

// done lets go of all. keep says that another pull goes on with what is here.
func (s *registrySource) done(keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range s.store.release(s.held, keep) {
		if err := os.Remove(path); err != nil {
			s.store.log.WithError(err).Warn("a blob that is not needed is left until the next start")
		}
	}
	s.held = nil
	if t, ok := s.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// release ends a pull's hold of files, and moves those that nobody holds into the trash,
// unless they are to be kept. It returns where they are: to delete them may take long. Who
// holds one from here on finds none, or has one that is not removed.
func (s *Store) release(paths []string, keep bool) (gone []string) {
	s.naming.Lock()
	defer s.naming.Unlock()
	for _, path := range paths {
		if s.held[path]--; s.held[path] > 0 {
			continue
		}
		delete(s.held, path)
		if keep {
			continue
		}
		to := s.aside("trash", "blob")
		switch err := os.Rename(path, to); {
		case err == nil:
			gone = append(gone, to)
		case !errors.Is(err, fs.ErrNotExist):
			s.log.WithError(err).Warn("a blob that is not needed is left")
		}
	}
	return gone
}

// arrive gives a blob that is whole its name.
func (s *Store) arrive(part, path string) error {
	s.naming.Lock()
	defer s.naming.Unlock()
	return os.Rename(part, path)
}

// discredit removes a blob that is not what it should be, unless one from another registry
// has come to its place.
func (s *Store) discredit(f *os.File, path string) error {
	bad, err := f.Stat()
	if err != nil {
		return err
	}
	to := s.aside("trash", "blob")
	s.naming.Lock()
	there, err := os.Lstat(path)
	if err == nil && os.SameFile(there, bad) {
		err = os.Rename(path, to)
	} else if err == nil {
		err = fs.ErrNotExist // the bad one
	}
	s.naming.Unlock()
	if err == nil {
		err = os.Remove(to)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
