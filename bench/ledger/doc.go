// Package ledger is the independent witness of the pipeline: it writes samples that are a pure function of
// (seed, tenant, series, tick), notes in a file what was promised for each request, reads everything back through three
// different doors and says what is missing, doubled, changed, invented or in the wrong tenant's hands. In go a Spec and
// the URL of a system that speaks remote write, remote read and PromQL; out come a Report and the ledger file, from which
// the same verdict can be reached again. It never imports a package of the product, so that a mistake there cannot
// excuse itself here.
//
// The parts: spec.go (the function), wire.go (requests as bytes), file.go (the ledger), writer.go (the senders),
// read.go (remote read and PromQL), verify.go, floor.go and report.go (the verdict).
package ledger
