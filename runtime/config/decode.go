package config

import (
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// spot is one value of the tree and where it is.
type spot struct {
	node *yaml.Node
	// key is the path from the root, like "stop.signal".
	key string
	// open says that the text is a prefix and its continuation may still change
	// this value: an empty one may become anything, a plain scalar may get more
	// words on the next line, a list or map more items. Only the last value of
	// each collection, from the root down, can be open.
	open bool
}

// newSpot makes the spot of a child of a collection that is open or not.
func newSpot(n *yaml.Node, key string, open bool) spot {
	const closed = yaml.FlowStyle | yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle
	if n.Style&closed != 0 {
		open = false
	}
	return spot{node: n, key: key, open: open}
}

// child is the path of a key of this map.
func (s spot) child(name string) string {
	if s.key == "" {
		return name
	}
	return s.key + "." + name
}

// unsettled reports whether nothing can be said of the value yet: it is empty
// or a block scalar, to which the next line may add what it likes.
func (s spot) unsettled() bool {
	return s.open && s.node.Kind == yaml.ScalarNode &&
		(isNull(s.node) || s.node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0)
}

// growError is a fault of a value that more words may repair.
type growError struct{ error }

func (e *growError) Unwrap() error { return e.error }

// decoder walks the tree, fills the config and collects what is wrong.
type decoder struct {
	cfg   *Config
	box   string
	lines int
	errs  []*Error
	seen  map[string]int // the line of each key, with those above it: security.profile
}

func newDecoder(box string, text []byte, doc document) *decoder {
	return &decoder{cfg: Default(box), box: box, lines: countLines(text), seen: map[string]int{}}
}

// firstError returns the fault nearest to the top, or nil.
func (d *decoder) firstError() *Error {
	var first *Error
	for _, e := range d.errs {
		if first == nil || e.Line < first.Line {
			first = e
		}
	}
	return first
}

// fail notes a fault that no continuation repairs.
func (d *decoder) fail(s spot, format string, args ...any) {
	d.failAt(s.node.Line, s.key, fmt.Sprintf(format, args...))
}

func (d *decoder) failAt(line int, key, msg string) {
	d.errs = append(d.errs, &Error{
		Box: d.box, Line: min(max(line, 1), d.lines), Key: key, Msg: msg,
	})
}

// failYet notes a fault that is none while the value is open.
func (d *decoder) failYet(s spot, format string, args ...any) {
	if !s.open {
		d.fail(s, format, args...)
	}
}

// failType says what was expected, with an example, and what was found.
func (d *decoder) failType(s spot, want string) {
	if isNull(s.node) {
		d.fail(s, "%s has no value: it must be %s (or leave the key out)", s.key, want)
		return
	}
	d.fail(s, "%s must be %s, not %s", s.key, want, kindOf(s.node))
}

// field is a key of a map and what decodes its value.
type field struct {
	name   string
	decode func(spot)
}

// fields decodes a map that has these keys and no others, and returns which of
// them it has; nil if it is no map. want says what is expected.
func (d *decoder) fields(s spot, want string, fields []field) map[string]bool {
	if s.node.Kind != yaml.MappingNode {
		d.failType(s, want)
		return nil
	}
	given := map[string]bool{}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	d.pairs(s, func(name string, key, value spot) {
		for _, f := range fields {
			if f.name != name {
				continue
			}
			given[name] = true
			d.seen[key.key] = key.node.Line
			if d.plainNode(value) && !value.unsettled() {
				f.decode(value)
			}
			return
		}
		hint := ""
		if near := nearestWord(name, names); near != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", s.child(near))
		} else if s.key != "" {
			hint = fmt.Sprintf(" (known here: %s)", strings.Join(names, ", "))
		}
		d.fail(key, "unknown key %q%s", key.key, hint)
	})
	return given
}

// pairs calls fn for each key of a map and its value. Keys that are no words
// and keys given twice are refused here.
func (d *decoder) pairs(s spot, fn func(name string, key, value spot)) {
	lines := map[string]int{}
	items := s.node.Content
	for i := 0; i+1 < len(items); i += 2 {
		last := s.open && i+2 == len(items)
		value := newSpot(items[i+1], "", last)
		// A key written as "? key" may go on for as long as it has no value.
		key := newSpot(items[i], s.key, last && isNull(value.node))
		if !d.plainNode(key) || key.unsettled() {
			continue
		}
		if key.node.Kind != yaml.ScalarNode || isNull(key.node) || key.node.Value == "" {
			what := "nothing"
			if key.node.Kind != yaml.ScalarNode {
				what = kindOf(key.node)
			}
			d.fail(key, "a key must be a word, not %s", what)
			continue
		}
		name := key.node.Value
		key.key = s.child(showKey(name))
		value.key = key.key
		if first, twice := lines[name]; twice {
			d.failYet(key, "key %q is given twice, first on line %d: keep one", key.key, first)
			continue
		}
		lines[name] = key.node.Line
		fn(name, key, value)
	}
}

// entries calls fn for each entry of a map whose keys are the user's own.
// check judges a key. Entries without a value are refused.
func (d *decoder) entries(s spot, want string, check func(string) error, fn func(name string, value spot)) {
	if s.node.Kind != yaml.MappingNode {
		d.failType(s, want)
		return
	}
	d.pairs(s, func(name string, key, value spot) {
		if err := check(name); err != nil {
			d.fail(key, "%v", err)
			return
		}
		if d.plainNode(value) && !value.unsettled() {
			fn(name, value)
		}
	})
}

// items calls fn for each item of a list that can be judged.
func (d *decoder) items(s spot, want string, fn func(spot)) {
	if s.node.Kind != yaml.SequenceNode {
		d.failType(s, want)
		return
	}
	for i, n := range s.node.Content {
		item := newSpot(n, fmt.Sprintf("%s[%d]", s.key, i), s.open && i+1 == len(s.node.Content))
		if d.plainNode(item) && !item.unsettled() {
			fn(item)
		}
	}
}

// plainNode refuses what a config has no use for: anchors (and so aliases, which
// need one before them), merge keys and tags.
func (d *decoder) plainNode(s spot) bool {
	switch n := s.node; {
	case n.Anchor != "":
		d.fail(s, "anchors are not supported: quote a value that starts with &")
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(s, "tags are not supported: quote a value that starts with !")
	case n.Tag == "!!merge":
		d.fail(s, "merge keys (<<) are not supported: write the keys out")
	default:
		return true
	}
	return false
}

// word gives the literal text of a scalar to set, whatever type YAML takes it
// for: a user who writes 60 or true means these characters.
func (d *decoder) word(s spot, want string, set func(string) error) {
	if s.node.Kind != yaml.ScalarNode || isNull(s.node) {
		d.failType(s, want)
		return
	}
	text := s.node.Value
	if strings.IndexByte(text, 0) >= 0 {
		d.fail(s, "%s holds a NUL byte", s.key)
		return
	}
	err := set(text)
	var grow *growError
	if errors.As(err, &grow) {
		d.failYet(s, "%s %v", s.key, err)
	} else if err != nil {
		d.fail(s, "%s %v", s.key, err)
	}
}

// text decodes any string.
func (d *decoder) text(s spot, want string, to *string) {
	d.word(s, want, func(text string) error { *to = text; return nil })
}

// flag decodes true or false.
func (d *decoder) flag(s spot, to *bool) {
	if s.node.Kind != yaml.ScalarNode || s.node.Tag != "!!bool" {
		d.failType(s, "true or false")
		return
	}
	*to = strings.EqualFold(s.node.Value, "true")
}

// command decodes the words of a program and its arguments.
func (d *decoder) command(to *[]string, example string) func(spot) {
	return func(s spot) {
		d.items(s, "a list of words, like "+example, func(item spot) {
			var word string
			d.text(item, `a word, like "60"`, &word)
			*to = append(*to, word)
		})
		if s.node.Kind != yaml.SequenceNode {
			return
		}
		if len(s.node.Content) == 0 {
			d.failYet(s, "%s is empty: name what is run, like %s", s.key, example)
		} else if n := s.node.Content[0]; n.Kind == yaml.ScalarNode && !isNull(n) && n.Value == "" {
			item := newSpot(n, s.key+"[0]", s.open && len(s.node.Content) == 1)
			d.failYet(item, "%s is empty: name the program, like %s", item.key, example)
		}
	}
}

// isNull reports whether a node has no value: nothing, ~ or null.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// kindOf returns what a message calls a node.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a map"
	}
	switch n.Tag {
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "empty"
	}
	return "a string"
}
