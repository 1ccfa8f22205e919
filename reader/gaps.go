package reader

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"sluice/internal/catalog"
	"sluice/schema"
)

// A gap is a part of the log that was lost before anybody had read it. What samples were in it nobody knows; only when
// the log took them is known. Samples are young when they are sent, so a gap concerns the queries over the time around
// it: from maxAge before its first moment to maxLead after its last.
const (
	maxAge  = time.Hour        // of a sample when it is sent; a sender that was cut off for longer sends older ones, most never do
	maxLead = 10 * time.Minute // of a sender's clock; more is refused unless the limits say otherwise
)

// concerns tells whether samples of the gap may be in [mint, maxt]. A side whose time is not known is open.
func concerns(g *schema.Gap, mint, maxt int64) bool {
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if g.FromTime != 0 {
		from = g.FromTime - maxAge.Milliseconds()
	}
	if g.ToTime != 0 {
		to = g.ToTime + maxLead.Milliseconds()
	}
	return from <= maxt && to >= mint
}

// lost says what the gaps mean for a query over [mint, maxt]: an error, for which the caller may take a part of the
// answer, and a remark about gaps that an operator has accepted. Both are nil without gaps.
func (v *view) lost(mint, maxt int64) (failure, remark error) {
	var open, accepted []schema.Gap
	for i := range v.gaps {
		switch g := &v.gaps[i]; {
		case g.From >= g.To && !strings.HasSuffix(g.Reason, schema.GapReplaced) || !concerns(g, mint, maxt):
		case catalog.Accepted(*g):
			accepted = append(accepted, *g)
		default:
			open = append(open, *g)
		}
	}
	if len(open) > 0 {
		failure = schema.NewError(schema.ErrSamplesLost, http.StatusUnprocessableEntity,
			"samples of the time asked for may be lost for good: %s; partial_response=true answers with what there is, `sluice log accept-gap --partition %d --from %d` makes that the rule",
			describe(open), open[0].Partition, open[0].From)
	}
	if len(accepted) > 0 {
		remark = errors.New("samples of the time asked for may be lost, which has been accepted: " + describe(accepted))
	}
	return failure, remark
}

// describe names the first gap and counts the others.
func describe(gaps []schema.Gap) string {
	g := &gaps[0]
	text := fmt.Sprintf("offsets %d to %d of partition %d, written between %s and %s (%s)", g.From, g.To, g.Partition, moment(g.FromTime), moment(g.ToTime), g.Reason)
	if more := len(gaps) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more such gaps", more)
	}
	return text
}

func moment(ms int64) string {
	if ms == 0 {
		return "an unknown time"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

// cutError says that offsets [from, to) of a partition are in no block and, as the log was cut, with nobody else. It is
// nil if all of them are in recorded gaps, which lost tells of.
func (v *view) cutError(partition int32, from, to int64) error {
	start := from
	for _, g := range v.gaps { // in order of offsets
		if g.Partition == partition && g.From <= start && g.To > start {
			start = g.To
		}
	}
	if start >= to {
		return nil
	}
	return schema.Unavailable(schema.ErrCoverage, nil, "offsets %d to %d of partition %d are in no block, and the log begins after them", start, to, partition)
}
