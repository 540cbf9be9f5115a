package fsapi

import (
	"fmt"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// imagesTarget is the image store as a target of commands.
type imagesTarget struct{ rt *runtime.Runtime }

const imagesVerbs = "pull REFERENCE, prune [all]"

func (t imagesTarget) Kills() uint64                 { return 0 } // it knows no kill
func (t imagesTarget) verbs() string                 { return imagesVerbs }
func (t imagesTarget) RefuseCommand(err error) error { return t.rt.RefuseImages(err) }

func (t imagesTarget) Do(by runtime.By, c runtime.Command) (*runtime.Completion, error) {
	return t.rt.ImagesDo(by, c)
}

func (t imagesTarget) parse(words []string) (runtime.Command, error) {
	c := runtime.Command{Verb: runtime.Verb(words[0])}
	args := words[1:]
	switch c.Verb {
	case runtime.VerbPull:
		if len(args) != 1 {
			return c, fmt.Errorf("%w: pull takes one reference, like docker://docker.io/library/alpine:3", runtime.ErrInvalid)
		}
		ref, err := image.ParseRef(args[0])
		if err != nil {
			return c, fmt.Errorf("%w: %w", runtime.ErrInvalid, err)
		}
		c.Image = ref
	case runtime.VerbPrune:
		if c.All = len(args) == 1 && args[0] == "all"; len(args) > 0 && !c.All {
			return c, fmt.Errorf("%w: prune takes nothing, or the word all", runtime.ErrInvalid)
		}
	default:
		return c, fmt.Errorf("%w: unknown command %q (%s)", runtime.ErrInvalid, words[0], imagesVerbs)
	}
	return c, nil
}
