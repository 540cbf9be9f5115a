package config

import (
	"fmt"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Exec is what is run in a box beside its own command.
type Exec struct {
	// Command is the program and its arguments: at least one word, the first of them
	// not empty.
	Command []string
	// Env is added to that of the box. Its values may be secrets.
	Env map[string]string
	// Workdir and User take the place of the box's own, unless they are empty.
	Workdir, User string
	// Timeout is how long it may run; 0 is for ever.
	Timeout time.Duration
	// TTY gives it a terminal.
	TTY bool
}

const execExample = "command: [ls, -l]"

// ParseExec decodes a complete cmd, as strictly as Parse does and with its
// errors: a map, or one line of words, which are split at blanks and nothing else.
func ParseExec(box string, text []byte) (*Exec, error) {
	return parseExec(box, text, false)
}

// CheckExecPrefix judges a cmd of which text is only the beginning, as
// CheckPrefix does.
func CheckExecPrefix(box string, text []byte) error {
	_, err := parseExec(box, text, true)
	return err
}

func parseExec(box string, text []byte, prefix bool) (*Exec, error) {
	if err := checkText(box, text, prefix); err != nil {
		return nil, err
	}
	if words, ok := execWords(text); ok {
		return &Exec{Command: words}, nil
	}
	d, doc, err := parseTree(box, text, prefix)
	if d == nil {
		return nil, err
	}
	x := d.exec(doc, prefix)
	if e := d.firstError(); e != nil {
		return nil, e
	}
	return x, nil
}

// execWords returns the words of a cmd that is one plain line, and no map: that would
// begin with a key, or with a bracket.
func execWords(text []byte) ([]string, bool) {
	line := strings.TrimSpace(string(text))
	words := strings.Fields(line)
	if len(words) == 0 || strings.ContainsAny(line, "\n\r") || strings.HasSuffix(words[0], ":") {
		return nil, false
	}
	switch line[0] {
	case '{', '[', '#', '%', '"', '\'', '&', '*', '!', '|', '>', '?', '-', '`', '@':
		return nil, false
	}
	return words, true
}

// exec decodes the tree of a cmd. What a prefix lacks may still come, and is no fault.
func (d *decoder) exec(doc document, prefix bool) *Exec {
	x := &Exec{}
	if doc.extra != 0 {
		d.failAt(doc.extra, "", `only one document is allowed: remove the line "---"`)
	}
	const want = `one line of words, like "ls -l", or a map, like ` + execExample
	if doc.root == nil {
		if !prefix {
			d.failAt(1, "", "there is no command: write "+want)
		}
		return x
	}
	s := newSpot(doc.root, "", prefix)
	if !d.plainNode(s) || s.unsettled() {
		return x
	}
	if s.node.Kind != yaml.MappingNode {
		if s.node.Kind != yaml.ScalarNode || !s.open {
			d.fail(s, "the command must be %s, not %s", want, kindOf(s.node))
		}
		return x
	}
	given := d.fields(s, "", []field{
		{"command", d.command(&x.Command, "[ls, -l]")},
		{"env", d.env},
		{"workdir", func(s spot) { d.word(s, "an absolute path, like /srv", setPath(&x.Workdir)) }},
		{"user", func(s spot) { d.word(s, `a user, like nobody or "1000:1000"`, setUser(&x.User)) }},
		{"timeout", func(s spot) {
			d.word(s, "a duration, like 10s", setDurationIn(&x.Timeout, minTime, maxTime))
		}},
		{"tty", func(s spot) { d.flag(s, &x.TTY) }},
	})
	if !given["command"] && !s.open {
		d.failAt(s.node.Line, "command", fmt.Sprintf("command is missing: add what is run, like %s", execExample))
	}
	x.Env = d.cfg.Env
	return x
}
