package config

import (
	"errors"
	"fmt"
	"time"
)

// MaxSize is the greatest size of a config.yaml and of a cmd, in bytes.
const MaxSize = 64 << 10

// ErrTooBig says that a text is longer than MaxSize.
var ErrTooBig = errors.New("config is over 64 KiB")

// Default returns the config of a box whose config.yaml says nothing.
func Default(box string) *Config {
	return &Config{
		Env:      map[string]string{},
		Workdir:  "/",
		User:     "root",
		Engine:   EngineHost,
		Pull:     PullMissing,
		Overlay:  true,
		Init:     true,
		Hostname: box,
		Network:  "host",
		Rlimits:  map[string]Rlimit{"nofile": {Soft: 1024, Hard: 1024}},
		Security: Security{Profile: ProfileDefault, NoNewPrivileges: true},
		Health: HealthCheck{
			Interval: 30 * time.Second, Timeout: 10 * time.Second, Retries: 3, StartPeriod: 60 * time.Second, OnUnhealthy: "none",
		},
		Restart: Restart{Policy: RestartNo},
		Stop:    Stop{Timeout: 10 * time.Second},
		Detach:  true,
		Log:     Log{MaxSize: 10 << 20},
		Labels:  map[string]string{},
	}
}

// Error says what is wrong with a config.yaml or a cmd. It never holds a value
// of env.
type Error struct {
	// Box is the box's name. Error leaves it to the caller to show it.
	Box string
	// Line is the line of the fault, from 1.
	Line int
	// Key is the path of the key at fault, like "stop.timeout" or
	// "mounts[0].target"; empty when the fault is in no key.
	Key string
	// Msg says what is wrong and, where that can be known, how to put it right.
	Msg string
}

// Error returns "line N: " and the message.
func (e *Error) Error() string {
	return fmt.Sprintf("line %d: %s", e.Line, e.Msg)
}

// Parse decodes a complete config.yaml strictly: whatever is not known, given twice, of the
// wrong type or out of range is refused. The error is ErrTooBig, or an *Error for the first
// line that is wrong. box is the name of the box, which is its host name by default.
func Parse(box string, text []byte) (*Config, error) {
	return parse(box, text, false)
}

// CheckPrefix judges a config.yaml of which text is only the beginning, as it has arrived so
// far. It returns an error, of the same kinds as Parse, only if nothing that may still follow
// can make the whole valid, so that a write may fail before the close. A line counts once its
// newline is there. The cost is that of parsing the text: it need not be called for a write
// without a newline in it.
func CheckPrefix(box string, text []byte) error {
	_, err := parse(box, text, true)
	return err
}

func parse(box string, text []byte, prefix bool) (*Config, error) {
	if err := checkText(box, text, prefix); err != nil {
		return nil, err
	}
	d, doc, err := parseTree(box, text, prefix)
	if d == nil {
		return nil, err
	}
	d.config(doc, prefix)
	if e := d.firstError(); e != nil {
		return nil, e
	}
	return d.cfg, nil
}

// checkText refuses a text that is too long, or holds what no text holds.
func checkText(box string, text []byte, prefix bool) error {
	if len(text) > MaxSize {
		return ErrTooBig
	}
	if e := checkBytes(text, prefix); e != nil {
		e.Box = box
		return e
	}
	return nil
}

// parseTree builds the tree of a text, or of the whole lines of a prefix, and what decodes it.
// There is no decoder and no error if more text can make a tree of the prefix.
func parseTree(box string, text []byte, prefix bool) (*decoder, document, error) {
	if prefix {
		text = wholeLines(text)
	}
	doc, err := parseYAML(text)
	if err == nil {
		return newDecoder(box, text, doc), doc, nil
	}
	if prefix && repairable(text) {
		return nil, document{}, nil
	}
	e := syntaxError(text, err)
	e.Box = box
	return nil, document{}, e
}
