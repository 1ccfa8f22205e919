package producer

import (
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"sluice/schema"
)

// nowhere is the partition of a known series that the tenant's rules drop: it is remembered so that it costs a look-up. It
// counts as defined once the request that met it was answered, and is looked at again as rarely as others are defined again.
const nowhere = -1

// tenantLabel is there while the rules work and holds the tenant, as in Mimir.
const tenantLabel = "__meta_tenant_id"

// relabeller is the memory that relabelling needs.
type relabeller struct {
	in   labels.ScratchBuilder
	work *labels.Builder
	text []byte // of the labels that came, then of those that came out
}

// relabels tells whether the tenant has rules for labels.
func (q *request) relabels() bool {
	return q.limits.MetricRelabelConfigs != (schema.SharedList[schema.RelabelRule]{}) || q.limits.DropLabels != (schema.SharedList[schema.LabelName]{})
}

// relabel applies the tenant's rules to the labels of q.series. They are applied to labels that are sorted and there once; how
// many they are and how long only matters afterwards, as taking off what is too much is what rules are for.
func (q *request) relabel() verdict {
	id, message := q.tidyLabels()
	if id == "" {
		id, message = disordered(q.series.Labels)
	}
	if id != "" {
		q.refuseParsed(id, message)
		return refused
	}
	r := &q.rewriter
	r.in.Reset()
	r.text = r.text[:0]
	for _, l := range q.series.Labels {
		r.text = append(append(r.text, l.Name...), l.Value...)
	}
	text, before := string(r.text), len(r.text) // one string for all
	for _, l := range q.series.Labels {
		r.in.Add(text[:len(l.Name)], text[len(l.Name):len(l.Name)+len(l.Value)])
		text = text[len(l.Name)+len(l.Value):]
	}
	if r.work == nil {
		r.work = labels.NewBuilder(labels.EmptyLabels())
	}
	r.work.Reset(r.in.Labels())
	if rules := q.limits.MetricRelabelConfigs.Items(); len(rules) > 0 {
		r.work.Set(tenantLabel, string(q.tenant))
		for _, rule := range rules {
			if !relabel.ProcessBuilder(r.work, rule.Config) {
				return dropped
			}
			if before > largeLabels && r.tooLarge(before) { // before the next rule makes it a multiple again
				break
			}
		}
		r.work.Del(tenantLabel)
	}
	for _, name := range q.limits.DropLabels.Items() {
		r.work.Del(string(name))
	}
	if r.tooLarge(before) {
		q.refuseParsed(schema.ErrRecordTooLarge, fmt.Sprintf("relabelled, the labels of the series have more than %d bytes, half of a record", maxRawSeries/2))
		return refused
	}
	return q.takeLabels(r.work.Labels())
}

// largeLabels is how many bytes of labels are looked at after each rule.
const largeLabels = 4 << 10

// tooLarge tells whether the rules have made labels of before bytes so large that no record may have room for them. With its
// lengths, each label takes 18 bytes more at most.
func (r *relabeller) tooLarge(before int) bool {
	size, n := 0, 0
	r.work.Range(func(l labels.Label) {
		size += len(l.Name) + len(l.Value)
		n += len(l.Name) + len(l.Value) + 18
	})
	return n > maxRawSeries/2 && size > before+len(tenantLabel)+schema.MaxTenantLength
}

// takeLabels makes ls the labels of q.series.
func (q *request) takeLabels(ls labels.Labels) verdict {
	if ls.IsEmpty() {
		return dropped
	}
	size := 0
	ls.Range(func(l labels.Label) { size += len(l.Name) + len(l.Value) })
	r := &q.rewriter
	r.text = slices.Grow(r.text[:0], size) // so that it does not move below
	q.labels = q.labels[:0]
	ls.Range(func(l labels.Label) {
		at := len(r.text)
		r.text = append(append(r.text, l.Name...), l.Value...)
		q.labels = append(q.labels, schema.Label{Name: r.text[at : at+len(l.Name)], Value: r.text[at+len(l.Name):]})
	})
	q.series.Labels = q.labels
	return changed
}

// drop counts the values of q.series as dropped.
func (q *request) drop() {
	q.dropped.samples += len(q.series.Samples)
	q.dropped.histograms += len(q.series.Histograms)
	q.dropped.exemplars += len(q.series.Exemplars)
}

// dropUnknown drops q.series and has it remembered. known is what the cache has of it, nil if nothing.
func (q *request) dropUnknown(key seriesKey, known *knownSeries) {
	q.drop()
	switch {
	case q.state.cache == nil:
	case known != nil && known.partition != unplaced:
		q.defined = append(q.defined, known)
	default:
		q.learn(learned{key: key, partition: nowhere})
	}
}
