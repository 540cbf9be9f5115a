package image

import (
	"encoding/json"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// configFile is what is wanted of an image's configuration. What it says of itself is kept,
// and shown to everybody at each look: so each part has a bound of its own.
type configFile struct {
	Architecture string  `json:"architecture"`
	OS           string  `json:"os"`
	Created      v1.Time `json:"created"`
	Config       struct {
		Entrypoint []string
		Cmd        []string
		Env        []string
		User       string
		WorkingDir string
		StopSignal string
		Labels     map[string]string
	} `json:"config"`
	RootFS struct {
		DiffIDs []v1.Hash `json:"diff_ids"`
	} `json:"rootfs"`
	History []json.RawMessage `json:"history"`
}

// parseConfigFile parses the configuration of an image.
func parseConfigFile(ref Ref, text []byte, l *limits) (*configFile, error) {
	f := &configFile{}
	if err := json.Unmarshal(text, f); err != nil {
		return nil, errorf(ErrCorrupt, "image %s: its configuration cannot be read: %v", ref, err)
	}
	c := &f.Config
	var labels []string
	for k, v := range c.Labels {
		labels = append(labels, k, v)
	}
	var history int64
	for _, h := range f.History {
		history += int64(len(h))
	}
	f.History = nil // nobody asks for it
	for _, part := range []struct {
		what      string
		have, max int64
	}{
		{"labels", size(labels), l.Labels}, {"env", size(c.Env), l.Env}, {"entrypoint and cmd", size(c.Entrypoint) + size(c.Cmd), l.Args}, {"history", history, l.History},
		{"user", int64(len(c.User)), l.Word}, {"workdir", int64(len(c.WorkingDir)), l.Word}, {"stop signal", int64(len(c.StopSignal)), l.Word},
	} {
		if part.have > part.max {
			return nil, errorf(ErrTooBig, "image %s: its %s are %d bytes, and at most %d are possible", ref, part.what, part.have, part.max)
		}
	}
	return f, nil
}

// size is what texts take, each with something for being one.
func size(texts []string) int64 {
	const each = 16
	n := int64(0)
	for _, s := range texts {
		n += int64(len(s)) + each
	}
	return n
}
