package producer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"

	"sluice/schema"
)

const metricName = "__name__"

// The timestamps that make sense at all, ms: the years 1 to 9999. Beyond them arithmetic on times overflows.
const (
	minTimestamp = -62_135_596_800_000
	maxTimestamp = 253_402_300_799_999
)

// timeBounds returns the oldest and the newest timestamp that the limits allow now.
func timeBounds(l *schema.Limits, now time.Time) (oldest, newest int64) {
	oldest, newest = minTimestamp, maxTimestamp
	if g := time.Duration(l.CreationGracePeriod); g > 0 {
		newest = min(newest, now.Add(g).UnixMilli())
	}
	if age, _ := l.MaxAge(); age > 0 {
		oldest = max(oldest, now.Add(-age).UnixMilli())
	}
	return oldest, newest
}

// verdict is what becomes of a series by its labels.
type verdict uint8

const (
	asItIs  verdict = iota
	changed         // its labels are others than those that came: the series has to be written anew
	dropped         // by the tenant's own rules
	refused
)

// checkLabels relabels and checks the labels of q.series, and that a 2.0 series has samples or histograms but not both.
func (q *request) checkLabels(v2 *schema.SeriesV2) verdict {
	s := &q.series
	v := asItIs
	if q.relabels() {
		if v = q.relabel(); v == dropped || v == refused {
			return v
		}
	}
	if !goodLabels(s.Labels, v == asItIs && isASCII(s.LabelBytes), q.limits) {
		if id, message := q.mendLabels(); id != "" {
			q.refuseParsed(id, message)
			return refused
		}
		v = changed
	}
	if v2 != nil && len(s.Samples) > 0 && len(s.Histograms) > 0 {
		q.refuseParsed(schema.ErrSamplesAndHistograms, "series has both samples and histograms, 2.0 allows one of them")
		return refused
	}
	return v
}

// isASCII says that no byte of b is 0x80 or more. Looking at all labels at once, with what is between them, is much faster
// than at each alone; it says no to a label of 128 bytes and more, whose length has such a byte.
func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// goodLabels says yes to labels with which nothing is wrong: the one pass that nearly every series needs. Those known to be
// ASCII need not be looked at for UTF-8.
func goodLabels(labels []schema.Label, ascii bool, lim *schema.Limits) bool {
	if m := lim.MaxLabelNamesPerSeries; len(labels) == 0 || m > 0 && len(labels) > m {
		return false
	}
	maxName, maxValue := lim.MaxLabelNameLength, lim.MaxLabelValueLength
	named, size := false, 0
	for i := range labels {
		l := &labels[i]
		size += len(l.Name) + len(l.Value)
		switch {
		case len(l.Name) == 0 || len(l.Value) == 0,
			maxName > 0 && len(l.Name) > maxName,
			maxValue > 0 && len(l.Value) > maxValue,
			!ascii && (!utf8.Valid(l.Name) || !utf8.Valid(l.Value)),
			i > 0 && bytes.Compare(labels[i-1].Name, l.Name) >= 0:
			return false
		}
		if !named && string(l.Name) == metricName {
			named = true
		}
	}
	return named && (lim.MaxLabelsSizeBytes == 0 || size <= lim.MaxLabelsSizeBytes)
}

// mendLabels drops labels without a value, which to Prometheus are no labels, sorts unless it must not, and finds out what else is
// wrong with the labels of q.series; id is empty if nothing is.
func (q *request) mendLabels() (id schema.ErrorID, message string) {
	if id, message = q.tidyLabels(); id != "" {
		return id, message
	}
	for _, fault := range []func([]schema.Label, *schema.Limits) (schema.ErrorID, string){tooMuch, malformed} {
		if id, message = fault(q.series.Labels, q.limits); id != "" {
			break
		}
	}
	return id, message
}

// tidyLabels drops labels without a value and sorts if it may. It needs labels that have names.
func (q *request) tidyLabels() (id schema.ErrorID, message string) {
	all := q.series.Labels
	if len(all) == 0 {
		return schema.ErrNoLabels, "series has no labels"
	}
	for i := range all {
		if name := all[i].Name; len(name) == 0 || !utf8.Valid(name) {
			return schema.ErrLabelNameInvalid, fmt.Sprintf("label name %.200q is empty or not UTF-8", name)
		}
	}
	q.labels = q.labels[:0]
	for i := range all {
		if len(all[i].Value) > 0 {
			q.labels = append(q.labels, all[i])
		}
	}
	if len(q.labels) == 0 {
		return schema.ErrNoLabels, "series has no labels with a value"
	}
	if !q.p.cfg.RefuseUnsorted {
		slices.SortStableFunc(q.labels, func(a, b schema.Label) int { return bytes.Compare(a.Name, b.Name) })
	}
	q.series.Labels = q.labels
	return "", ""
}

// tooMuch says which limit the labels are above.
func tooMuch(labels []schema.Label, lim *schema.Limits) (id schema.ErrorID, message string) {
	if m, name := maxLabelNames(labels, lim); m > 0 && len(labels) > m {
		return schema.ErrTooManyLabels, fmt.Sprintf("series has %d labels, more than %s of %d", len(labels), name, m)
	}
	size := 0
	for i := range labels {
		name, value := labels[i].Name, labels[i].Value
		size += len(name) + len(value)
		if m := lim.MaxLabelNameLength; m > 0 && len(name) > m {
			return schema.ErrLabelNameTooLong, fmt.Sprintf("label name %.100q of %d bytes is longer than max_label_name_length of %d", name, len(name), m)
		}
		if m := lim.MaxLabelValueLength; m > 0 && len(value) > m {
			return schema.ErrLabelValueTooLong, fmt.Sprintf("value of label %.100q has %d bytes, more than max_label_value_length of %d", name, len(value), m)
		}
	}
	if m := lim.MaxLabelsSizeBytes; m > 0 && size > m {
		return schema.ErrLabelsSize, fmt.Sprintf("names and values of the labels have %d bytes, more than max_labels_size_bytes of %d", size, m)
	}
	return "", ""
}

// maxLabelNames returns how many labels the series may have, and the YAML name of the limit that says so: info series, whose
// labels are all that they tell, have one of their own.
func maxLabelNames(labels []schema.Label, lim *schema.Limits) (limit int, name string) {
	limit, name = lim.MaxLabelNamesPerSeries, "max_label_names_per_series"
	for i := range labels {
		if m := lim.MaxLabelNamesPerInfoSeries; m > limit && string(labels[i].Name) == metricName && bytes.HasSuffix(labels[i].Value, []byte("_info")) {
			return m, "max_label_names_per_info_series"
		}
	}
	return limit, name
}

// malformed says what is wrong with labels that have names and values, whatever the limits.
func malformed(labels []schema.Label, _ *schema.Limits) (id schema.ErrorID, message string) {
	for i := range labels {
		if string(labels[i].Name) != metricName && !utf8.Valid(labels[i].Value) {
			return schema.ErrLabelValueInvalid, fmt.Sprintf("value of label %.100q is not UTF-8", labels[i].Name)
		}
	}
	if id, message = disordered(labels); id != "" {
		return id, message
	}
	for i := range labels {
		if string(labels[i].Name) != metricName {
			continue
		}
		if !utf8.Valid(labels[i].Value) {
			return schema.ErrMetricNameInvalid, fmt.Sprintf("metric name %.200q is not UTF-8", labels[i].Value)
		}
		return "", ""
	}
	return schema.ErrMissingMetricName, "series has no metric name (label __name__)"
}

// disordered says whether labels are not sorted by name, or a name is there twice.
func disordered(labels []schema.Label) (id schema.ErrorID, message string) {
	for i := 1; i < len(labels); i++ {
		if bytes.Compare(labels[i-1].Name, labels[i].Name) > 0 {
			return schema.ErrLabelsNotSorted, fmt.Sprintf("label %.100q comes after %.100q, labels must be sorted by name", labels[i].Name, labels[i-1].Name)
		}
	}
	for i := 1; i < len(labels); i++ {
		if bytes.Equal(labels[i-1].Name, labels[i].Name) {
			return schema.ErrDuplicateLabelNames, fmt.Sprintf("label %.100q is there twice", labels[i].Name)
		}
	}
	return "", ""
}

// checkValues drops from q.series the samples, histograms and exemplars that are not acceptable, and says whether there
// were any.
func (q *request) checkValues() (mended bool) {
	s := &q.series
	good := true
	for i := range s.Samples {
		if t := s.Samples[i].Time; t < q.minTime || t > q.maxTime {
			good = false
			break
		}
	}
	if !good {
		q.dropSamples()
		q.refused.series++
	}
	if len(s.Histograms) > 0 && q.dropHistograms() {
		if good {
			q.refused.series++
		}
		good = false
	}
	if len(s.Exemplars) > 0 && q.dropExemplars() {
		return true
	}
	return !good
}

// dropSamples leaves in q.series the samples with acceptable times.
func (q *request) dropSamples() {
	s := &q.series
	q.samples = q.samples[:0]
	for _, smp := range s.Samples {
		id := q.timeFault(smp.Time)
		if id == "" {
			q.samples = append(q.samples, smp)
		} else if first := q.refused.add(id, 1); first != nil {
			first.message, first.series = q.explainTime(smp.Time, id), q.seriesText()
		}
	}
	s.Samples, q.samples = q.samples, s.Samples
}

// dropHistograms leaves in q.series the histograms that are valid, and says whether there were others.
func (q *request) dropHistograms() (dropped bool) {
	s := &q.series
	kept := s.Histograms[:0]
	for _, payload := range s.Histograms {
		id, message := q.histogramFault(payload)
		if id == "" {
			kept = append(kept, payload)
			continue
		}
		dropped = true
		if first := q.refused.add(id, 1); first != nil {
			first.message, first.series = message, q.seriesText()
		}
	}
	s.Histograms = kept
	return dropped
}

// dropExemplars does the same for exemplars. As in Prometheus, a bad exemplar is no reason to fail a request.
func (q *request) dropExemplars() (dropped bool) {
	s := &q.series
	kept := s.Exemplars[:0]
	for _, payload := range s.Exemplars {
		e, err := schema.DecodeExemplar(payload)
		if err == nil && e.Ts >= minTimestamp && e.Ts <= q.maxTime {
			kept = append(kept, payload)
			continue
		}
		dropped = true
		if first := q.refused.add(schema.ErrExemplarInvalid, 1); first != nil {
			first.message, first.series, first.harmless = q.exemplarFault(e.Ts, err), q.seriesText(), true
		}
	}
	s.Exemplars = kept
	return dropped
}

// exemplarFault says what is wrong with an exemplar at time t, or with its bytes.
func (q *request) exemplarFault(t int64, err error) string {
	if err != nil {
		return "exemplar invalid: " + err.Error()
	}
	if t < minTimestamp {
		return q.explainTime(t, schema.ErrTooFarInPast)
	}
	return "exemplar's " + q.explainTime(t, schema.ErrTooFarInFuture)
}

// timeFault says what is wrong with a timestamp, empty for nothing.
func (q *request) timeFault(t int64) schema.ErrorID {
	switch {
	case t > q.maxTime:
		return schema.ErrTooFarInFuture
	case t < q.minTime:
		return schema.ErrTooFarInPast
	}
	return ""
}

// explainTime says it in words.
func (q *request) explainTime(t int64, id schema.ErrorID) string {
	switch {
	case t > maxTimestamp:
		return fmt.Sprintf("timestamp %d ms is after the year 9999", t)
	case t < minTimestamp:
		return fmt.Sprintf("timestamp %d ms is before the year 1", t)
	case id == schema.ErrTooFarInFuture:
		return fmt.Sprintf("timestamp %s is more than creation_grace_period of %s in the future", formatTime(t), q.limits.CreationGracePeriod)
	}
	age, name := q.limits.MaxAge()
	return fmt.Sprintf("timestamp %s is more than %s of %s in the past", formatTime(t), name, model.Duration(age))
}

func formatTime(t int64) string { return time.UnixMilli(t).UTC().Format("2006-01-02T15:04:05.000Z") }

// histogramFault says what is wrong with the payload of a histogram.
func (q *request) histogramFault(payload []byte) (id schema.ErrorID, message string) {
	if m := q.limits.MaxNativeHistogramSampleBytes; m > 0 && len(payload) > m {
		return schema.ErrHistogramSize, fmt.Sprintf("native histogram of %d bytes is larger than max_native_histogram_sample_size_bytes of %d", len(payload), m)
	}
	h, fh, t, _, err := schema.DecodeHistogram(payload)
	if err != nil {
		return schema.ErrHistogramInvalid, "native histogram invalid: " + err.Error()
	}
	buckets := 0
	if fh != nil {
		buckets = len(fh.PositiveBuckets) + len(fh.NegativeBuckets)
	} else {
		buckets = len(h.PositiveBuckets) + len(h.NegativeBuckets)
	}
	if m := q.limits.MaxNativeHistogramBuckets; m > 0 && buckets > m {
		return schema.ErrHistogramBuckets, fmt.Sprintf("native histogram has %d buckets, more than max_native_histogram_buckets of %d", buckets, m)
	}
	if id := q.timeFault(t); id != "" {
		return id, q.explainTime(t, id)
	}
	return "", ""
}

// checkMetadata cuts the help text to what the limits allow, and refuses what else is too long.
func checkMetadata(m *schema.Metadata, lim *schema.Limits) bool {
	if limit := lim.MaxLabelValueLength; limit > 0 && len(m.Name) > limit {
		return false
	}
	if !utf8.Valid(m.Help) || !utf8.Valid(m.Unit) { // of a 2.0 request nobody has looked at them yet
		return false
	}
	limit := lim.MaxMetadataLength
	if limit == 0 {
		return true
	}
	if len(m.Unit) > limit {
		return false
	}
	if len(m.Help) > limit {
		for limit > 0 && !utf8.RuneStart(m.Help[limit]) {
			limit--
		}
		m.Help = m.Help[:limit]
	}
	return true
}

// metadataFault says in words why checkMetadata refuses m.
func metadataFault(m *schema.Metadata, lim *schema.Limits) string {
	if limit := lim.MaxLabelValueLength; limit > 0 && len(m.Name) > limit {
		return fmt.Sprintf("metadata of a metric whose name of %d bytes is longer than max_label_value_length of %d", len(m.Name), limit)
	}
	if limit := lim.MaxMetadataLength; limit > 0 && len(m.Unit) > limit {
		return fmt.Sprintf("unit of %.100q has %d bytes, more than max_metadata_length of %d", m.Name, len(m.Unit), limit)
	}
	return fmt.Sprintf("metadata of %.100q is not UTF-8", m.Name)
}

// refuseSeries refuses a series as a whole, n samples of it, whose labels nobody has seen.
func (q *request) refuseSeries(id schema.ErrorID, n int, message string) {
	q.refused.series++
	if first := q.refused.add(id, max(1, n)); first != nil {
		first.message = message
	}
}

// refuseParsed refuses q.series as a whole.
func (q *request) refuseParsed(id schema.ErrorID, message string) {
	s := &q.series
	q.refused.series++
	if first := q.refused.add(id, max(1, len(s.Samples)+len(s.Histograms))); first != nil {
		first.message, first.series = message, q.seriesText()
	}
}

// seriesText names q.series. The labels of a known one have not been looked at so far.
func (q *request) seriesText() string {
	_ = q.series.ParseLabels() // without an error: it was known, so they have been parsed before
	return formatSeries(q.series.Labels)
}

// maxSeriesText is how much of a series is printed, in bytes.
const maxSeriesText = 200

// formatSeries prints labels the way PromQL writes them, cut to maxSeriesText bytes.
func formatSeries(labels []schema.Label) string {
	b := make([]byte, 0, maxSeriesText+64)
	for i := range labels {
		if string(labels[i].Name) == metricName {
			b = append(b, cut(labels[i].Value)...)
			break
		}
	}
	b = append(b, '{')
	for i := range labels {
		l := &labels[i]
		if string(l.Name) == metricName {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ", "...)
		}
		if name := string(cut(l.Name)); model.LegacyValidation.IsValidLabelName(string(name)) {
			b = append(b, name...)
		} else {
			b = fmt.Appendf(b, "%q", name)
		}
		b = fmt.Appendf(b, "=%q", cut(l.Value))
		if len(b) > maxSeriesText {
			break
		}
	}
	if len(b) >= maxSeriesText {
		return string(bytes.ToValidUTF8(b[:maxSeriesText], nil)) + "…"
	}
	return string(bytes.ToValidUTF8(append(b, '}'), []byte("\ufffd")))
}

func cut(b []byte) []byte { return b[:min(len(b), maxSeriesText)] }
