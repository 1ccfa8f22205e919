// Package arch holds the rules of the repository's shape as tests: who may import whom, that every package says what it
// is for, and that the documents name only files that exist. In goes the source tree, read as text; out comes a failing
// test with the line that breaks a rule. It has no code of its own and nothing ever imports it.
package arch
