package config

import (
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/boxlitefs/boxlite/runtime/image"
)

// The functions set… return what checks the text of a value and stores it. The error is the rest
// of a sentence that begins with the key.

const maxPath = 4095 // PATH_MAX without its NUL

// setPath takes an absolute and clean path.
func setPath(to *string) func(string) error {
	return func(text string) error {
		switch {
		case hasControl(text):
			return errors.New("holds a control character")
		case len(text) > maxPath:
			return fmt.Errorf("is %d bytes long, the limit is %d", len(text), maxPath)
		case !path.IsAbs(text):
			return fmt.Errorf("%q is not absolute: start it with a /", text)
		case path.Clean(text) != text:
			return &growError{fmt.Errorf("%q is not clean: write %q", text, path.Clean(text))}
		}
		*to = text
		return nil
	}
}

var userForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,255}\$?$`)

// setUser takes a name or uid, with a group after it or not.
func setUser(to *string) func(string) error {
	return func(text string) error {
		user, group, both := strings.Cut(text, ":")
		parts := []string{user}
		if both {
			parts = append(parts, group)
		}
		for _, p := range parts {
			if !userForm.MatchString(p) {
				return fmt.Errorf("%q is no user: write a name or uid, like nobody, 1000 or \"1000:1000\"", text)
			}
			if strings.Trim(p, "0123456789") != "" {
				continue
			}
			// The id -1 means "unchanged" to setresuid(2).
			if id, err := strconv.ParseUint(p, 10, 32); err != nil || id == 1<<32-1 {
				return fmt.Errorf("%q is out of range: ids go from 0 to 4294967294", text)
			}
		}
		*to = text
		return nil
	}
}

// setEngine takes one of the engines there are.
func setEngine(to *string) func(string) error {
	return func(text string) error {
		if text == "vm" {
			return fmt.Errorf("%q is not supported yet (engines here: host, container)", text)
		}
		return setChoice(to, EngineHost, EngineContainer)(text)
	}
}

// setImage takes a reference of an image.
func setImage(to *string) func(string) error {
	return func(text string) error {
		if _, err := image.ParseRef(text); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "image ")) // the sentence begins with the key
		}
		*to = text
		return nil
	}
}

// setChoice takes one of some words.
func setChoice(to *string, words ...string) func(string) error {
	return func(text string) error {
		for _, w := range words {
			if text == w {
				*to = w
				return nil
			}
		}
		return fmt.Errorf("%q is unknown%s", showKey(text), didYouMean(nearestWord(text, words), words))
	}
}

var hostForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

const maxHostname = 64 // HOST_NAME_MAX

// setHostname takes host labels with dots between them.
func setHostname(to *string) func(string) error {
	return func(text string) error {
		if len(text) > maxHostname {
			return fmt.Errorf("is %d bytes long, the limit is %d", len(text), maxHostname)
		}
		for _, label := range strings.Split(text, ".") {
			if !hostForm.MatchString(label) {
				return fmt.Errorf("%q is no host name: use a-z A-Z 0-9 and - inside, like web-1", text)
			}
		}
		*to = text
		return nil
	}
}

var numberForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// setCount takes a whole number.
func setCount(to *int, least, most int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is no whole number from %d to %d", showKey(text), least, most)
		}
		*to = n
		return nil
	}
}

// setURL takes what a probe can ask for without a resolver and without TLS.
func setURL(to *string) func(string) error {
	return func(text string) error {
		if _, _, _, err := parseProbeURL(text); err != nil {
			return fmt.Errorf("%q %w: write it like http://localhost:8080/health", showKey(text), err)
		}
		*to = text
		return nil
	}
}

// setDurationIn takes a duration within bounds.
func setDurationIn(to *time.Duration, least, most time.Duration) func(string) error {
	return func(text string) error {
		if err := setDuration(to)(text); err != nil {
			return err
		}
		if *to < least || *to > most {
			return fmt.Errorf("%s is out of range: it goes from %s to %dh", text, least, int(most.Hours()))
		}
		return nil
	}
}

var (
	daysForm  = regexp.MustCompile(`^[0-9]{1,9}d$`)
	hoursForm = regexp.MustCompile(`^[0-9]+(h|m|s)$`)
)

// setDuration takes a duration as Go writes it, not negative.
func setDuration(to *time.Duration) func(string) error {
	return func(text string) error {
		if numberForm.MatchString(text) && text != "0" {
			return fmt.Errorf("%q has no unit: write it like %ss", showKey(text), showKey(text))
		}
		v, err := time.ParseDuration(text)
		switch {
		case err != nil && daysForm.MatchString(text):
			return fmt.Errorf("%q is no duration: write days in hours, like 24h", text)
		case err != nil && hoursForm.MatchString(text):
			return fmt.Errorf("%q is too long", showKey(text))
		case err != nil:
			return fmt.Errorf("%q is no duration: write it like 10s or 1m30s", showKey(text))
		}
		if v < 0 {
			return fmt.Errorf("%q is negative: write it like 10s", text)
		}
		*to = v
		return nil
	}
}

// A number, one space or none, and a unit or none.
var sizeForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)? ?[a-zA-Z]*$`)

// setSize takes a size in bytes. The message has the lower bound least as leastText.
func setSize(to *int64, least int64, leastText string) func(string) error {
	return func(text string) error {
		// "10" is too small where the next line may bring the "MiB".
		grow := func(format string, args ...any) error {
			return &growError{fmt.Errorf(format, args...)}
		}
		v, err := humanize.ParseBytes(text)
		switch {
		case strings.HasPrefix(text, "-"):
			return grow("%q is negative: write it like 10MiB", showKey(text))
		case !sizeForm.MatchString(text):
			return grow("%q is no size: write it like 64KiB, 10MiB or 2GB", showKey(text))
		case err != nil && strings.Trim(text, "0123456789.") == "":
			return grow("%q is too large", showKey(text))
		case err != nil:
			return grow("%q is no size or too large: write it like 64KiB, 10MiB or 2GB", showKey(text))
		case v > math.MaxInt64:
			return grow("%q is too large", showKey(text))
		case int64(v) < least:
			return grow("%q is too small: it must be at least %s", showKey(text), leastText)
		}
		*to = int64(v)
		return nil
	}
}
