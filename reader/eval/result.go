package eval

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"
)

// series is a result: a value, or missing, for each step.
type series struct {
	labels labels.Labels
	values []float64
}

// resultSet gives Prometheus' engine the results of a subtree as series with samples at the steps. It evaluates when it is
// asked for the first of them, which is when the engine comes to the subtree.
type resultSet struct {
	evaluate func() ([]series, annotations.Annotations, error)
	grid     grid

	begun    bool
	left     []series
	cur      storedSeries
	warnings annotations.Annotations
	err      error
}

func (r *resultSet) Next() bool {
	if !r.begun {
		r.begun = true
		r.left, r.warnings, r.err = r.evaluate()
	}
	if r.err != nil || len(r.left) == 0 {
		return false
	}
	r.cur = storedSeries{r.left[0], r.grid}
	r.left = r.left[1:]
	return true
}

func (r *resultSet) At() storage.Series                { return &storedSeries{r.cur.series, r.cur.grid} }
func (r *resultSet) Err() error                        { return r.err }
func (r *resultSet) Warnings() annotations.Annotations { return r.warnings }

// storedSeries is a result as the engine reads series.
type storedSeries struct {
	series
	grid grid
}

func (s *storedSeries) Labels() labels.Labels { return s.labels }

func (s *storedSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	i, ok := it.(*stepIterator)
	if !ok {
		i = &stepIterator{}
	}
	*i = stepIterator{series: s, at: -1}
	return i
}

// stepIterator has a sample at every step: where a result is missing it is a stale marker, or the engine would take the
// result of the step before.
type stepIterator struct {
	series *storedSeries
	at     int
}

func (i *stepIterator) Next() chunkenc.ValueType {
	if i.at++; i.at >= len(i.series.values) {
		i.at = len(i.series.values)
		return chunkenc.ValNone
	}
	return chunkenc.ValFloat
}

func (i *stepIterator) Seek(t int64) chunkenc.ValueType {
	g := i.series.grid
	if to := t - g.start; to > 0 {
		i.at = max(i.at, int((to+g.interval-1)/g.interval))
	}
	i.at = max(i.at, 0)
	if i.at >= len(i.series.values) {
		i.at = len(i.series.values)
		return chunkenc.ValNone
	}
	return chunkenc.ValFloat
}

func (i *stepIterator) AtT() int64                                                   { return i.series.grid.start + int64(i.at)*i.series.grid.interval }
func (i *stepIterator) At() (int64, float64)                                         { return i.AtT(), i.series.values[i.at] }
func (*stepIterator) AtST() int64                                                    { return 0 }
func (*stepIterator) Err() error                                                     { return nil }
func (*stepIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) { return 0, nil }
func (*stepIterator) AtFloatHistogram(*histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return 0, nil
}
