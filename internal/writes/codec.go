package writes

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sluice/schema"
)

// Counts are what a producer has written for a tenant since it knows the tenant.
type Counts struct {
	Samples    int64 // histograms included
	Histograms int64
	Requests   int64
}

// Rates are Counts per second, over the last minute.
type Rates struct {
	Samples    float64 `json:"samples"`
	Histograms float64 `json:"histograms,omitempty"`
	Requests   float64 `json:"requests,omitempty"`
}

func (r Rates) plus(o Rates) Rates {
	return Rates{r.Samples + o.Samples, r.Histograms + o.Histograms, r.Requests + o.Requests}
}

// Reject is one reason for which samples of a tenant were refused. Times are in ms.
type Reject struct {
	Reason  schema.ErrorID `json:"reason"`
	Count   int64          `json:"count"`
	First   int64          `json:"first"`
	Last    int64          `json:"last"`
	Series  string         `json:"series,omitempty"` // of the last time; empty if nobody knew its labels
	Message string         `json:"message"`
}

const (
	keyPrefix = "writes/"

	// maxReasons, maxText and maxValue bound what is told of one tenant: reasons, bytes of a series and of a message, bytes of
	// a value. What a record has beyond is left out by whoever reads it.
	maxReasons = 16
	maxText    = 300
	maxValue   = 64 << 10
	// maxNumber is more than anybody writes, and few enough for sums to be numbers.
	maxNumber = 1 << 48
)

// Kinds of records.
const (
	kindBeat    = "beat"
	kindRates   = "rates"
	kindRejects = "rejects"
)

type key struct {
	kind     string
	tenant   schema.Tenant // "" of a beat
	instance string
}

func (k key) encode() []byte {
	return fmt.Appendf(nil, "%s%s/%s/%s", keyPrefix, k.kind, k.tenant, k.instance)
}

var errKey = errors.New("not a key of what is written")

// decodeKey reads a key; ours tells whether it is one of this package at all.
func decodeKey(b []byte) (k key, ours bool, err error) {
	rest, ours := strings.CutPrefix(string(b), keyPrefix)
	if !ours {
		return k, false, nil
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) != 3 || parts[2] == "" {
		return k, true, errKey
	}
	k = key{kind: parts[0], instance: parts[2]}
	switch k.kind {
	case kindBeat:
		if parts[1] != "" {
			return k, true, errKey
		}
	case kindRates, kindRejects:
		k.tenant, err = schema.ParseTenant(parts[1])
	default:
		err = errKey
	}
	return k, true, err
}

// value is what any record of this package holds. What another run of the process has said does not hold any more.
type value struct {
	Run     uint32   `json:"run"`
	Rates   *Rates   `json:"rates,omitempty"`
	Rejects []Reject `json:"rejects,omitempty"`
}

func (v *value) encode() []byte {
	b, _ := json.Marshal(v) // numbers and strings: it cannot fail
	return b
}

var errValue = errors.New("not a value of what is written")

func decodeValue(kind string, b []byte) (v value, err error) {
	if len(b) > maxValue {
		return v, fmt.Errorf("%w: %d bytes", errValue, len(b))
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, err
	}
	switch kind {
	case kindRates:
		if r := v.Rates; r == nil || min(r.Samples, r.Histograms, r.Requests) < 0 || max(r.Samples, r.Histograms, r.Requests) > maxNumber {
			return v, errValue
		}
	case kindRejects:
		v.Rejects = v.Rejects[:min(len(v.Rejects), maxReasons)]
		for i := range v.Rejects {
			r := &v.Rejects[i]
			if r.Reason == "" || r.Count < 0 || r.Count > maxNumber {
				return v, errValue
			}
			r.Series, r.Message = cut(r.Series), cut(r.Message)
		}
	}
	return v, nil
}

// cut shortens a text to maxText bytes.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	const dots = "…"
	return strings.ToValidUTF8(s[:maxText-len(dots)], "") + dots
}
