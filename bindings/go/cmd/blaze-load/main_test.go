package main

import (
	"testing"
	"time"
)

func TestQuantilesAreByTheNearestRank(t *testing.T) {
	sorted := make([]time.Duration, 1000)
	for i := range sorted {
		sorted[i] = time.Duration(i+1) * time.Millisecond
	}
	for part, want := range map[float64]float64{0: 1, 0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := quantile(sorted, part); got != want {
			t.Errorf("quantile %v is %v, not %v", part, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Error(got)
	}
}
