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
	r     *Results
	notes string
}

// render writes the document. The same results and notes give the same document.
func render(r *Results, notes string) string {
	d := &report{r: r, notes: notes}
	d.introduce()
	d.machine()
	d.goals()
	d.note("Goals")
	d.transactions()
	d.note("Transactions")
	d.trail()
	d.bulk()
	d.note("Bulk")
	d.logins()
	d.busyLogins()
	d.note("Log-ins")
	d.memory()
	d.note("Memory")
	d.growth()
	d.calls()
	d.note("System calls and allocations")
	d.goBenchmarks()
	return strings.TrimRight(d.String(), "\n") + "\n"
}

func (d *report) introduce() {
	d.paragraph("# Benchmarks")
	d.paragraph(`Hourgate beside PgBouncer in session mode, the newest that Debian has, HAProxy that passes TCP through, and a direct
connection. ` + "`make bench BENCH=full`" + ` measures and writes this page; ` + "`make bench`" + ` prints a shorter one in ten
minutes. What is not a figure or a table of figures comes from bench/report.go and bench/notes.md.`)
	d.paragraph(`On all cores, client, proxy and PostgreSQL run where the kernel puts them, as in use. On one core they share it, so
that all CPU time counts; what does not say otherwise was measured so. The contestants take turns within a round, each
round another one first. A ratio is the median of the rounds' own ratios, with the least and the greatest in
parentheses; other figures are medians. Absolute figures move with the machine, ratios much less.`)
	d.paragraph(`Hourgate and PgBouncer have TLS on both sides, verified towards the server, and log in with SCRAM-SHA-256 on both
sides; certificates are ECDSA P-256. OpenSSL as a server chooses AES-256-GCM and Go AES-128-GCM, so PgBouncer has the
longer keys on the client's side and both have them on the server's. HAProxy does no cryptography: the client's TLS
ends at the server. The copy loop (bench/copy.go) has no TLS at all, looks at nothing, and is one thread that reads
and writes: no proxy can be below it. Hourgate runs with its defaults, with the trail on (statements, parameters,
results), and a grant of READ_WRITE. PgBouncer has verifiers in place of passwords, so that it need not derive keys,
and does not log sessions. PostgreSQL has 128 MB of shared buffers and no fsync; the data fits.`)
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
	d.row("called with", "`"+r.Command+"`")
	d.row("load in the minute before", r.Load)
	d.paragraph("")
	if len(r.Failed) > 0 {
		d.paragraph("Some measures failed, and what they would show is missing here, or comes from fewer rounds:")
		for _, failed := range r.Failed {
			d.WriteString("- " + failed + "\n")
		}
		d.paragraph("")
	}
}

func (d *report) goals() {
	d.paragraph("## Goals")
	d.header("measure", "against", "goal", "measured", "")
	for _, g := range goals {
		v := g.judge(d.r)
		d.row(g.measure, g.against, g.want, v.measured(), v.outcome())
	}
	d.paragraph("")
}

func (d *report) transactions() {
	for _, place := range places {
		measures := make(map[string]string)
		var order []string
		for _, w := range fullMode.transactions {
			if measure := at(place, w.measure()); d.r.Values[measure] != nil {
				order = append(order, measure)
				measures[measure] = fmt.Sprintf("%s, %d", w.protocol, w.clients)
			}
		}
		if len(order) == 0 {
			continue
		}
		d.paragraph("## Transactions on " + placeTitle(place))
		d.paragraph("pgbench -S, one row by its key; the protocol and the number of clients. What connecting costs is left out.")
		d.paragraph("The proxy's CPU time for a transaction, user and system, in µs:")
		d.compare(order, measures, quantityCPU, pgbouncerName, false)
		d.paragraph("Transactions per second:")
		d.compare(order, measures, quantityRate, directName, true)
		for _, latency := range []struct{ title, quantity string }{
			{"The median of latency, in µs, in all:", quantityP50},
			{"The 99th percentile:", quantityP99},
			{"The 99.9th percentile:", quantityP999},
		} {
			d.paragraph(latency.title)
			d.compare(order, measures, latency.quantity, pgbouncerName, true)
		}
		d.paragraph("Context switches of the proxy for a transaction, with those that other processes force upon it:")
		d.compare(order, measures, quantitySwitches, pgbouncerName, false)
	}
}

func placeTitle(place string) string {
	if place == allCores {
		return "all cores"
	}
	return "one core"
}

func (d *report) trail() {
	begun := false
	for _, place := range places {
		for _, w := range trailWorkloads {
			measure := at(place, trailMeasure(w))
			if d.r.Values[measure] == nil {
				continue
			}
			if !begun {
				begun = true
				d.paragraph("## The cost of the trail")
				d.paragraph("What Hourgate records of each statement, one kind more in each row, and its CPU time and the client's latency in µs.")
			}
			d.header(fmt.Sprintf("%s, %d, %s", w.protocol, w.clients, placeTitle(place)), "CPU", "÷ nothing", "per second", "p50", "p99", "p99.9")
			for _, name := range trailNames {
				cells := []string{title(name), number(median(d.r.values(measure, name, quantityCPU))), ratio(d.r.ratio(measure, quantityCPU, name, trailOff))}
				for _, quantity := range []string{quantityRate, quantityP50, quantityP99, quantityP999} {
					cells = append(cells, number(median(d.r.values(measure, name, quantity))))
				}
				d.row(cells...)
			}
			d.paragraph("")
		}
	}
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
		if name != to && slices.Contains(names, to) && (to == directName || name == hourgateName || name == baseName) {
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
	begun := false
	for _, place := range places {
		measure := at(place, loginMeasure)
		if d.r.Values[measure] == nil {
			continue
		}
		if !begun {
			begun = true
			d.paragraph("## Log-ins")
			d.paragraph(`pgbench -S -C: connect, one query, disconnect; eight clients at once. "PgBouncer, fresh" opens a server connection for
each log-in, as a gate that works by session has to; plain PgBouncer finds one that is open already.`)
		}
		d.header(placeTitle(place), "per second", "÷ direct", "÷ PgBouncer, fresh", "proxy's CPU, ms")
		for _, name := range d.r.names(measure) {
			cpu := "–"
			if name != directName {
				cpu = number(median(d.r.values(measure, name, quantityCPU)) / 1000)
			}
			d.row(title(name), number(median(d.r.values(measure, name, quantityRate))),
				ratio(d.r.ratio(measure, quantityRate, name, directName)),
				ratio(d.r.ratio(measure, quantityRate, name, freshName)), cpu)
		}
		d.paragraph("")
	}
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

func (d *report) busyLogins() {
	begun := false
	for _, place := range places {
		measure := at(place, busyLoginMeasure)
		if d.r.Values[measure] == nil {
			continue
		}
		if !begun {
			begun = true
			d.paragraph("## Log-ins beside busy sessions")
			d.paragraph(fmt.Sprintf("The same beside %d sessions that run one SELECT after the other through the same proxy.", busySessions))
			d.header("", "per second", "÷ direct")
		}
		for _, name := range d.r.names(measure) {
			d.row(title(name)+", "+placeTitle(place), number(median(d.r.values(measure, name, quantityRate))),
				ratio(d.r.ratio(measure, quantityRate, name, directName)))
		}
	}
	if begun {
		d.paragraph("")
	}
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
	d.paragraph(`How much the proxy grows for an idle session, in KiB, a second after the last of them has run its query, and later: a
minute in full mode, six seconds in the short one. TLS on both sides, but for HAProxy. Above a thousand sessions a
stub stands for the server, since that many backends do not fit this machine: it speaks TLS and SCRAM and answers each
query with a row. Two open files a session and the limit on them bound the number. The sockets' buffers are the
kernel's and not in here.`)
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
		for _, quantity := range []struct{ key, label string }{{quantityRSS, "RSS"}, {quantityPSS, "PSS"}, {quantityAnonymous, "anonymous"}, {quantityLater, "RSS later"}} {
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
are what Go's runtime counts in the whole process, without strace, less what it counts in the same time with nothing to do;
a transaction is five messages.`)
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
	if idle := d.of(callsMeasure, quantityIdleAllocations); !math.IsNaN(idle) {
		d.paragraph(fmt.Sprintf("With nothing to do, Hourgate allocates %s times a second, for looks at its files, its clock and its servers.", thousands(int(idle))))
	}
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
