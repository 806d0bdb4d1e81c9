//go:build linux

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// report is a Markdown document in the making.
type report struct {
	strings.Builder
	r *Results
}

// render writes the document. The same results give the same document.
func render(r *Results) string {
	d := &report{r: r}
	d.introduce()
	d.machine()
	d.goals()
	d.transactions()
	d.bulk()
	d.logins()
	d.memory()
	d.calls()
	d.goBenchmarks()
	return strings.TrimRight(d.String(), "\n") + "\n"
}

func (d *report) introduce() {
	d.paragraph("# Benchmarks")
	d.paragraph(`Hourgate beside PgBouncer 1.18 in session mode, HAProxy 2.6 that passes TCP through, and a direct
connection. ` + "`make bench BENCH=full`" + ` measures and writes this page; ` + "`make bench`" + ` prints a shorter one in two
minutes.`)
	d.paragraph(`Client, proxy and PostgreSQL share one core, so that all CPU time counts. The contestants take turns within a round,
each round another one first. A ratio is the median of the rounds' own ratios, with the least and the greatest in
parentheses; other figures are medians. Absolute figures move with the machine, ratios much less.`)
	d.paragraph(`Hourgate and PgBouncer have TLS on both sides, verified towards the server, and log in with SCRAM-SHA-256 on both sides;
certificates are ECDSA P-256. HAProxy does no cryptography: the client's TLS ends at the server. Hourgate runs with its
defaults, with the trail on, and a grant of READ_WRITE. PgBouncer has verifiers in place of passwords, so that it need
not derive keys, and does not log sessions. PostgreSQL has 128 MB of shared buffers and no fsync; the data fits.`)
}

func (d *report) machine() {
	r := d.r
	d.header("machine", fmt.Sprintf("%s, %d cores, %s", r.CPU, r.Cores, r.Kernel))
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, name+" "+r.Versions[name])
	}
	d.row("versions", strings.Join(versions, ", "))
	d.row("mode, date", r.Mode+", "+r.Date)
	d.paragraph("")
}

func (d *report) goals() {
	d.paragraph("## Goals")
	d.header("measure", "against", "goal", "measured", "")
	for _, g := range goals {
		v := g.judge(d.r)
		d.row(g.measure, g.against, g.want, v.measured(), v.outcome())
	}
	d.paragraph("")
	d.paragraph(`Where goals are missed, decisions [13](decisions/0013-dial-ahead.md) (log-ins) and [14](decisions/0014-bursts.md) (the
rest) say what the time goes into, and what is out of reach on one core of such a machine.`)
}

func (d *report) transactions() {
	measures := make(map[string]string)
	var order []string
	for _, w := range fullMode.transactions {
		if d.r.Values[w.measure()] != nil {
			order = append(order, w.measure())
			measures[w.measure()] = fmt.Sprintf("%s, %d", w.protocol, w.clients)
		}
	}
	if len(order) == 0 {
		return
	}
	d.paragraph("## Transactions")
	d.paragraph("pgbench -S, one row by its key; the protocol and the number of clients. What connecting costs is left out.")
	d.paragraph("The proxy's CPU time for a transaction, user and system, in µs:")
	d.compare(order, measures, quantityCPU, pgbouncerName, false)
	d.paragraph("Transactions per second:")
	d.compare(order, measures, quantityRate, directName, true)
	d.paragraph(`Latency in µs: what the direct connection takes, and what is added to it. The last column divides medians, since in one
round the difference of two latencies can be next to nothing. With 8 and 32 clients on one core latency is the time in
the queue for that core, so it shows throughput once more. The median:`)
	d.latencies(order, measures, quantityP50)
	d.paragraph("The 99th percentile:")
	d.latencies(order, measures, quantityP99)
	d.paragraph("Context switches of the proxy for a transaction, with those that other processes on the core force upon it:")
	d.compare(order, measures, quantitySwitches, pgbouncerName, false)
}

// compare has a row for each measure: the medians, and ratios to one of the contestants.
func (d *report) compare(order []string, labels map[string]string, quantity, to string, direct bool) {
	names := d.contestants(order, direct)
	columns := []string{""}
	for _, name := range names {
		columns = append(columns, title(name))
	}
	var compared []string
	for _, name := range names {
		if name != to && slices.Contains(names, to) && (to == directName || name != haproxyName) {
			compared = append(compared, name)
			columns = append(columns, title(name)+" ÷ "+title(to))
		}
	}
	withBase := slices.Contains(names, baseName) && slices.Contains(names, hourgateName)
	if withBase {
		columns = append(columns, "Hourgate ÷ base")
	}
	d.header(columns...)
	for _, measure := range order {
		cells := []string{labels[measure]}
		for _, name := range names {
			cells = append(cells, number(median(d.r.values(measure, name, quantity))))
		}
		for _, name := range compared {
			cells = append(cells, ratio(d.r.ratio(measure, quantity, name, to)))
		}
		if withBase {
			cells = append(cells, ratio(d.r.ratio(measure, quantity, hourgateName, baseName)))
		}
		d.row(cells...)
	}
	d.paragraph("")
}

func (d *report) latencies(order []string, labels map[string]string, quantity string) {
	names := d.contestants(order, false)
	columns := []string{"", "direct"}
	for _, name := range names {
		columns = append(columns, "+ "+title(name))
	}
	d.header(append(columns, "Hourgate's ÷ PgBouncer's")...)
	for _, measure := range order {
		cells := []string{labels[measure], number(median(d.r.values(measure, directName, quantity)))}
		for _, name := range names {
			cells = append(cells, number(median(d.r.added(measure, quantity, name))))
		}
		quotient := addedRatio(d.r, measure, quantity)
		if math.IsNaN(quotient) {
			d.row(append(cells, "–")...)
		} else {
			d.row(append(cells, fmt.Sprintf("%.2f", quotient))...)
		}
	}
	d.paragraph("")
}

// contestants of some measures, which have the same.
func (d *report) contestants(order []string, direct bool) []string {
	return slices.DeleteFunc(d.r.names(order[0]), func(name string) bool { return name == directName && !direct })
}

func (d *report) bulk() {
	var order []string
	labels := map[string]string{
		"bulk/copy out wide":   "COPY out, rows of 8,000 bytes",
		"bulk/copy out narrow": "COPY out, rows of 100 bytes",
		"bulk/copy in":         "COPY in, rows of 8,000 bytes",
		"bulk/select":          "SELECT, rows of 8,000 bytes",
	}
	for _, b := range bulks {
		if d.r.Values[b.measure] != nil {
			order = append(order, b.measure)
		}
	}
	if len(order) == 0 {
		return
	}
	d.paragraph("## Bulk")
	d.paragraph("psql for COPY, pgbench for SELECT; the server makes the rows up, and throws away those that it gets.")
	d.paragraph("The proxy's CPU seconds for a GB:")
	d.compare(order, labels, quantityPerGB, pgbouncerName, false)
	d.paragraph("Megabytes per second, all on one core:")
	d.compareScaled(order, labels)
}

// compareScaled is compare for speeds, which are kept in bytes.
func (d *report) compareScaled(order []string, labels map[string]string) {
	scaled := &Results{Values: make(map[string]map[string]map[string][]float64)}
	for _, measure := range order {
		for _, name := range d.r.names(measure) {
			for _, value := range d.r.values(measure, name, quantitySpeed) {
				scaled.add(measure, name, map[string]float64{quantitySpeed: value / 1e6})
			}
		}
	}
	inner := &report{r: scaled}
	inner.compare(order, labels, quantitySpeed, directName, true)
	d.WriteString(inner.String())
}

func (d *report) logins() {
	if d.r.Values[loginMeasure] == nil {
		return
	}
	d.paragraph("## Log-ins")
	d.paragraph(`pgbench -S -C: connect, one query, disconnect; eight clients at once. "PgBouncer, fresh" opens a server connection for
each log-in, as a gate that works by session has to; plain PgBouncer finds one that is open already.`)
	d.header("", "per second", "÷ direct", "÷ PgBouncer, fresh", "proxy's CPU, ms")
	for _, name := range d.r.names(loginMeasure) {
		cpu := "–"
		if name != directName {
			cpu = number(median(d.r.values(loginMeasure, name, quantityCPU)) / 1000)
		}
		d.row(title(name), number(median(d.r.values(loginMeasure, name, quantityRate))),
			ratio(d.r.ratio(loginMeasure, quantityRate, name, directName)),
			ratio(d.r.ratio(loginMeasure, quantityRate, name, freshName)), cpu)
	}
	d.paragraph("")
	if d.r.Values[firstMeasure][hourgateName] == nil {
		return
	}
	d.paragraph("One log-in at a time, from dialling to the first prompt, by a client in Go, in ms:")
	d.header("", "", "over direct")
	direct := d.r.values(firstMeasure, directName, quantityWarm)
	d.row("direct", number(median(direct)), "")
	warm := d.r.values(firstMeasure, hourgateName, quantityWarm)
	d.row("Hourgate, role warm", number(median(warm)), added(eachRound(warm, direct, difference)))
	d.row("Hourgate, first of a grant", number(median(d.r.values(firstMeasure, hourgateName, quantityFirst))), added(firstAdded(d.r)))
	d.paragraph("")
}

func (d *report) memory() {
	var order []string
	labels := make(map[string]string)
	for _, sessions := range []int{200, 1000, 10_000} {
		measure := memoryMeasure(sessions)
		if d.r.Values[measure] == nil {
			continue
		}
		order = append(order, measure)
		name := d.r.names(measure)[0]
		labels[measure] = fmt.Sprintf("%.0f sessions", median(d.r.values(measure, name, "sessions")))
		if sessions > realSessions {
			labels[measure] += ", stub"
		}
	}
	if len(order) == 0 {
		return
	}
	d.paragraph("## Memory")
	d.paragraph(`How much the proxy grows for an idle session that has run one query, in KiB; TLS on both sides, but for HAProxy. Above a
thousand sessions a stub stands for the server, since that many backends do not fit this machine: it speaks TLS and
SCRAM and answers each query with a row. Two open files a session and the limit on them bound the number. The sockets'
buffers are the kernel's and not in here.`)
	var columns []string
	names := d.r.names(order[0])
	for _, name := range names {
		columns = append(columns, title(name))
	}
	for _, name := range names {
		if name != pgbouncerName && name != haproxyName && slices.Contains(names, pgbouncerName) {
			columns = append(columns, title(name)+" ÷ PgBouncer")
		}
	}
	d.header(append([]string{""}, columns...)...)
	for _, measure := range order {
		for _, quantity := range []struct{ key, label string }{{quantityRSS, "RSS"}, {quantityPSS, "PSS"}, {quantityAnonymous, "anonymous"}} {
			cells := []string{labels[measure] + ", " + quantity.label}
			for _, name := range names {
				cells = append(cells, number(median(d.r.values(measure, name, quantity.key))/1024))
			}
			for _, name := range names {
				if name != pgbouncerName && name != haproxyName && slices.Contains(names, pgbouncerName) {
					cells = append(cells, ratio(d.r.ratio(measure, quantity.key, name, pgbouncerName)))
				}
			}
			d.row(cells...)
		}
	}
	d.paragraph("")
}

func (d *report) calls() {
	if d.r.Values[callsMeasure] == nil {
		return
	}
	d.paragraph("## System calls and allocations")
	d.paragraph(`For a transaction of one client, simple protocol, as strace counts them; strace slows the proxy down. Failed reads are
those that found nothing. Waits are epoll_wait and its like; others include futex, nanosleep and epoll_ctl. Allocations
are what Go's runtime counts in the whole process, without strace; a transaction is five messages.`)
	d.header("", "reads", "failed reads", "writes", "waits", "others", "allocations")
	for _, name := range d.r.names(callsMeasure) {
		cells := []string{title(name)}
		for _, quantity := range []string{quantityReads, quantityEmpty, quantityWrites, quantityWaits, quantityOthers, quantityAllocations} {
			if value := median(d.r.values(callsMeasure, name, quantity)); math.IsNaN(value) {
				cells = append(cells, "–")
			} else {
				cells = append(cells, fmt.Sprintf("%.2f", max(0, value)))
			}
		}
		d.row(cells...)
	}
	d.paragraph("")
}

func (d *report) goBenchmarks() {
	if len(d.r.GoBenchmarks) == 0 {
		return
	}
	d.paragraph("## Go benchmarks")
	d.header("", "ns", "bytes", "allocations")
	for _, b := range d.r.GoBenchmarks {
		d.row(b.Name, number(b.Nanos), number(b.Bytes), fmt.Sprintf("%.0f", b.Allocs))
	}
	d.paragraph("")
}

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
