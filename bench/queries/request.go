package queries

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// Request returns the samples as a request of remote write 2.0, uncompressed. Runs of samples of one series and one kind share
// a message: one with both kinds would lose their order.
func Request(samples []Sample) ([]byte, error) {
	symbols := writev2.NewSymbolTable()
	req := &writev2.Request{}
	for i := range samples {
		s := &samples[i]
		if i == 0 || s.Histogram() != samples[i-1].Histogram() || !labels.Equal(s.Series, samples[i-1].Series) {
			req.Timeseries = append(req.Timeseries, writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(s.Series, nil)})
		}
		ts := &req.Timeseries[len(req.Timeseries)-1]
		switch {
		case s.H != nil:
			ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(s.ST, s.T, s.H))
		case s.FH != nil:
			ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(s.ST, s.T, s.FH))
		default:
			ts.Samples = append(ts.Samples, writev2.Sample{StartTimestamp: s.ST, Timestamp: s.T, Value: s.V})
		}
	}
	req.Symbols = symbols.Symbols()
	b, err := req.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return b, nil
}
