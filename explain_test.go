package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// Every ID can be explained, alone and in the list, and says what happened and what to do.
func TestExplain(t *testing.T) {
	var list strings.Builder
	require.NoError(t, explain(&list, nil))
	lines := strings.Split(strings.TrimSpace(list.String()), "\n")
	require.Len(t, lines, len(schema.ErrorIDs()))
	for i, id := range schema.ErrorIDs() {
		require.True(t, strings.HasPrefix(lines[i], string(id)+" "), lines[i])
		require.Greater(t, len(strings.TrimSpace(strings.TrimPrefix(lines[i], string(id)))), 10, "%s has no text in the list", id)
		var one strings.Builder
		require.NoError(t, explain(&one, []string{string(id)}))
		require.Equal(t, 1, strings.Count(one.String(), "**What happened.** "), id)
		require.Equal(t, 1, strings.Count(one.String(), "**What to do.** "), id)
		require.NotContains(t, one.String(), "\n#", id)
	}
	for _, arg := range []string{"decode", "(err-sluice-decode)", "err-sluice-decode."} {
		var one strings.Builder
		require.NoError(t, explain(&one, []string{arg}))
		require.True(t, strings.HasPrefix(one.String(), "err-sluice-decode\n"))
	}
	var two strings.Builder
	require.NoError(t, explain(&two, []string{"decode", "no-tenant"}))
	require.Contains(t, two.String(), "\n\nerr-sluice-no-tenant\n")

	require.ErrorContains(t, explain(&two, []string{"err-sluice-decod"}), "did you mean err-sluice-decode?")
	require.ErrorContains(t, explain(&two, []string{"nothing like it at all"}), "lists them all")
	require.ErrorContains(t, explain(&two, []string{""}), "lists them all")
}
