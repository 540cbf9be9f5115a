package config

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"
)

// showKey shortens a key for a message. It hides what follows a "=": in
// an env written as NAME=value that is a value.
func showKey(name string) string {
	if before, _, has := strings.Cut(name, "="); has {
		name = before + "=..."
	}
	const most = 64
	if r := []rune(name); len(r) > most {
		name = string(r[:most]) + "..."
	}
	return name
}

// hasControl reports whether a text holds a control character or a line break.
func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || r == 0x2028 || r == 0x2029
	})
}

// nearestWord returns the word that was probably meant, or "".
func nearestWord(word string, words []string) string {
	const longest = 64
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, found := max(1, len(word)/3)+1, ""
	for _, w := range words {
		if n := levenshtein.ComputeDistance(word, strings.ToLower(w)); n < best && n < len(w) {
			best, found = n, w
		}
	}
	return found
}

// didYouMean returns a hint to put after a message: the near word, or all.
func didYouMean(near string, words []string) string {
	if near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return fmt.Sprintf(" (known: %s)", strings.Join(words, ", "))
}
