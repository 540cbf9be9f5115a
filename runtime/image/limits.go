package image

import "time"

// limits bound what an image may cost. They are in boxlite-images(7).
type limits struct {
	Manifest  int64 // bytes of a manifest, an index or a configuration
	Layers    int   // of an image
	Labels    int64 // bytes of what an image says of itself
	Env       int64
	Args      int64
	History   int64
	Word      int64 // of its user, its working directory, and its stop signal
	Archive   int64 // bytes of a compressed archive when it is not
	Packed    int64 // bytes of a layer as it is fetched
	Unpacked  int64 // bytes of a layer, as a tar and in files, whichever is more
	Entries   int64 // of a layer
	Header    int64 // bytes of the names and attributes of one entry
	Headers   int64 // and of all of a layer
	Implied   int   // directories of a layer that it has no entry for
	Missing   int64 // bytes of their paths
	Whiteouts int   // of all layers of an image
	ID        int   // the greatest user or group
	Memory    uint64
}

var defaultLimits = limits{
	Manifest:  4 << 20,
	Layers:    128,
	Labels:    512 << 10,
	Env:       256 << 10,
	Args:      256 << 10,
	History:   1 << 20,
	Word:      4 << 10,
	Archive:   64 << 30,
	Packed:    16 << 30,
	Unpacked:  16 << 30,
	Entries:   1_000_000,
	Header:    256 << 10,
	Headers:   256 << 20,
	Implied:   10_000,
	Missing:   1 << 20,
	Whiteouts: 100_000,
	ID:        65535,
	Memory:    1 << 30,
}

const (
	// stallBound is how long a registry may take to begin an answer, and for each
	// stallChunk bytes of it.
	stallBound = 60 * time.Second
	stallChunk = 64 << 10
	// fetchTries is how often a blob is asked for when its connection breaks, with
	// doubling distances that begin with fetchPause.
	fetchTries = 5
	fetchPause = 200 * time.Millisecond
	// keepInterrupted is how long what a broken pull has fetched is kept.
	keepInterrupted = 24 * time.Hour
	// fetchers and unpackers bound what is under way at once.
	fetchers  = 4
	unpackers = 2
)
