//go:build linux

package main

import "time"

// mode says how much is measured.
type mode struct {
	name         string
	transactions []workload
	rounds       int
	window       time.Duration // of a contestant's turn in a round
	loginWindow  time.Duration // likewise, for log-ins
	firstLogins  int
	bulkBytes    int           // of a turn
	sessions     []int         // idle ones, for memory
	settling     time.Duration // before memory is read
	later        time.Duration // before it is read once more, with no more than realSessions
	traced       int           // transactions under strace
	ends         []int         // grants that end at once
	benchTime    time.Duration // of each Go benchmark
}

var shortMode = mode{
	name:         "short",
	transactions: []workload{{"simple", 1}, {"simple", 8}, {"simple", 32}, {"extended", 8}, {"prepared", 32}},
	rounds:       3, window: 700 * time.Millisecond, loginWindow: time.Second, firstLogins: 7, bulkBytes: 200e6,
	sessions: []int{200}, settling: time.Second, later: 5 * time.Second, traced: 500, benchTime: 100 * time.Millisecond,
	ends: []int{100},
}

var fullMode = mode{
	name: "full",
	transactions: []workload{
		{"simple", 1},
		{"simple", 8},
		{"simple", 32},
		{"extended", 8},
		{"extended", 32},
		{"prepared", 8},
		{"prepared", 32},
	},
	rounds: 5, window: 1500 * time.Millisecond, loginWindow: 2 * time.Second, firstLogins: 40, bulkBytes: 400e6,
	sessions: []int{1000, 10_000}, settling: time.Second, later: 59 * time.Second, traced: 1000, benchTime: 500 * time.Millisecond,
	ends: []int{500, 5000},
}
