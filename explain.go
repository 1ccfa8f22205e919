package main

import (
	_ "embed"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/internal/limits"
	"sluice/schema"
)

// errorsDoc goes with the program, so that an ID can be looked up where it was met.
//
//go:embed docs/errors.md
var errorsDoc string

func explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say what an error ID means and what to do; without one, list all", ArgsUsage: "[err-sluice-…]",
		Action: func(c *cli.Context) error { return explain(c.App.Writer, c.Args().Slice()) },
	}
}

// explain prints the entries of docs/errors.md for ids, of none the list of all. An ID may be given as it is found in a
// message, in brackets, or without the part that all have.
func explain(w io.Writer, ids []string) error {
	if len(ids) == 0 {
		for _, id := range schema.ErrorIDs() {
			entry, _ := errorEntry(string(id))
			_, what, _ := strings.Cut(entry, "**What happened.** ")
			what, _, _ = strings.Cut(what, "\n")
			what, _, _ = strings.Cut(what, ". ") // one sentence
			fmt.Fprintf(w, "%-52s %s\n", id, strings.TrimSuffix(what, "."))
		}
		return nil
	}
	for i, arg := range ids {
		id := strings.Trim(arg, "()., ")
		if !strings.HasPrefix(id, errorPrefix) {
			id = errorPrefix + id
		}
		entry, ok := errorEntry(id)
		if !ok {
			return unknownID(arg, id)
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s\n\n%s\n", id, entry)
	}
	return nil
}

const errorPrefix = "err-sluice-"

// errorEntry returns the text of an ID's entry, without its headline.
func errorEntry(id string) (text string, ok bool) {
	_, text, ok = strings.Cut(errorsDoc, "\n### "+id+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	text, _, _ = strings.Cut(text, "\n### ")
	return strings.TrimSpace(text), ok
}

func unknownID(arg, id string) error {
	var names []string
	for _, known := range schema.ErrorIDs() {
		names = append(names, strings.TrimPrefix(string(known), errorPrefix))
	}
	if near := limits.Nearest(strings.TrimPrefix(id, errorPrefix), names); near != "" {
		return fmt.Errorf("there is no error %.80q; did you mean %s%s?", arg, errorPrefix, near)
	}
	return fmt.Errorf("there is no error %.80q; `sluice explain` lists them all", arg)
}
