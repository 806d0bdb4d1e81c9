//go:build linux

package main

import (
	"fmt"
)

// growth says what many of something cost.
func (d *report) growth() {
	inner := &report{r: d.r}
	inner.idleSessions()
	inner.manyPeople()
	inner.manyAtOnce()
	inner.manyEnds()
	if text := inner.String(); text != "" {
		d.paragraph("## Growth")
		d.WriteString(text)
		d.note("Growth")
	}
}

// of is the median of Hourgate's quantity in a measure.
func (d *report) of(measure, quantity string) float64 {
	return median(d.r.values(measure, hourgateName, quantity))
}

func (d *report) idleSessions() {
	const many = 10_000
	idle := besideMeasure(many)
	if d.r.Values[idle] == nil {
		return
	}
	count := thousands(int(median(d.r.values(idle, d.r.names(idle)[0], "sessions"))))
	d.paragraph(fmt.Sprintf(`%d busy sessions, each with one question after the other, which the stub answers, beside none and beside %s idle ones; one core.
The two were measured one after the other and not in turns.`, busySessions, count))
	d.header("", "idle sessions", "proxy's CPU, µs", "per second", "p50, µs", "p99, µs")
	for _, name := range d.r.names(idle) {
		for _, measure := range []struct{ idle, measure string }{{"0", besideMeasure(0)}, {count, idle}} {
			cells := []string{title(name), measure.idle}
			for _, quantity := range []string{quantityCPU, quantityRate, quantityP50, quantityP99} {
				cells = append(cells, number(median(d.r.values(measure.measure, name, quantity))))
			}
			d.row(cells...)
		}
	}
	d.paragraph("")
}

func (d *report) manyPeople() {
	if d.r.Values[manyPeopleMeasure] == nil {
		return
	}
	d.paragraph(fmt.Sprintf(`%s users with a grant each, all cores. Decide's time with as many is among the Go benchmarks. Log-ins are compared with
those through a gate whose policy has %d users.`, thousands(manyPeople), 1+firstUsers+crowd))
	d.header("", "")
	d.row("reload, from the signal until the policy is in force", number(1000*d.of(manyPeopleMeasure, quantityReload))+" ms")
	d.row("CPU time of a reload", number(1000*d.of(manyPeopleMeasure, quantityReloadCPU))+" ms")
	d.row("memory of the process more than with few", number(d.of(manyPeopleMeasure, quantityMemory)/(1<<20))+" MiB")
	d.row("log-ins per second ÷ with few", ratio(d.r.ratio(manyPeopleLoginMeasure, quantityRate, manyPeopleMeasure, hourgateName)))
	d.row("CPU time of a log-in ÷ with few", ratio(d.r.ratio(manyPeopleLoginMeasure, quantityCPU, manyPeopleMeasure, hourgateName)))
	d.paragraph("")
}

func (d *report) manyAtOnce() {
	if d.r.Values[manyLoginsMeasure] != nil {
		d.paragraph(fmt.Sprintf("%d people who were never seen before log in at once, so that %d roles are made; direct, %d log in to a role that is there:", manyLogins, manyLogins, manyLogins))
		d.header("", "until the last is in, ms", "÷ direct")
		for _, name := range d.r.names(manyLoginsMeasure) {
			d.row(title(name), number(1000*median(d.r.values(manyLoginsMeasure, name, quantityTime))), ratio(d.r.ratio(manyLoginsMeasure, quantityTime, name, directName)))
		}
		d.paragraph("")
	}
	measure := manyIntegrationsMeasure
	if d.r.Values[measure] == nil {
		return
	}
	d.paragraph(fmt.Sprintf("%d integrations on one server, and a first log-in to each, %d at a time:", manyIntegrations, opening))
	d.header("", "")
	d.row("the gate's own connections to the server, the most at once", fmt.Sprintf("%.0f", d.of(measure, quantityConnections)))
	d.row("from start until it takes sessions", number(1000*d.of(measure, quantityReady))+" ms")
	d.row("first log-ins per second", number(manyIntegrations/d.of(measure, quantityTime)))
	d.row("memory of the process", number(d.of(measure, quantityMemory)/(1<<20))+" MiB")
	d.row("CPU time in each second with nothing to do", number(1000*d.of(measure, quantityIdle))+" ms")
	d.paragraph("")
}

func (d *report) manyEnds() {
	var measured []int
	for _, ends := range []int{100, 500, 5000} {
		if d.r.Values[manyEndsMeasure(ends)] != nil {
			measured = append(measured, ends)
		}
	}
	if len(measured) == 0 {
		return
	}
	d.paragraph(fmt.Sprintf(`Grants that one reload withdraws, each with a role, and %d of them at most with a statement under way. Seconds from the
reload's signal until`, mostStatements))
	d.header("grants", "the last client knows", "no statement runs", "no role can log in", "no role is left", "left after a minute")
	for _, ends := range measured {
		cells := []string{thousands(ends)}
		for _, quantity := range []string{quantityCut, quantityStatements, quantityPowerless, quantityGone} {
			cells = append(cells, number(d.of(manyEndsMeasure(ends), quantity)))
		}
		cells = append(cells, fmt.Sprintf("%.0f", d.of(manyEndsMeasure(ends), quantityLeft)))
		d.row(cells...)
	}
	d.paragraph("")
}
