//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
)

func (d *report) paragraph(text string) {
	if text != "" {
		text += "\n"
	}
	d.WriteString(text + "\n")
}

func (d *report) row(cells ...string) {
	d.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

func (d *report) header(cells ...string) {
	d.row(cells...)
	d.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
}

func title(name string) string {
	switch name {
	case hourgateName:
		return "Hourgate"
	case pgbouncerName:
		return "PgBouncer"
	case freshName:
		return "PgBouncer, fresh"
	case haproxyName:
		return "HAProxy"
	case copyName:
		return "copy loop"
	case trailOff:
		return "no statements"
	case trailStatements:
		return "statements"
	case trailParameters:
		return "and parameters"
	case trailResults:
		return "and results, the default"
	case trailSync:
		return "the same with sync"
	}
	return name
}

// number has three digits that matter, or all of a greater number.
func number(value float64) string {
	switch size := math.Abs(value); {
	case math.IsNaN(value) || math.IsInf(value, 0):
		return "–"
	case size >= 1000:
		return thousands(int(math.Round(value)))
	case size >= 100:
		return fmt.Sprintf("%.0f", value)
	case size >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

func thousands(n int) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func ratio(values []float64) string {
	s := spreadOf(values)
	if math.IsNaN(s.median) || math.IsInf(s.median, 0) {
		return "–"
	}
	if len(values) == 1 {
		return fmt.Sprintf("%.2f", s.median)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.median, s.low, s.high)
}

func added(values []float64) string {
	s := spreadOf(values)
	return fmt.Sprintf("%+.1f (%+.1f to %+.1f)", s.median, s.low, s.high)
}
