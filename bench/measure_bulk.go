//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Rows of bulk measures. repeat of constants costs the server least, so that the proxies show most.
const (
	wideRow   = 8000 // bytes
	narrowRow = 99

	// A round of COPY in and of SELECT is made of pieces, which a file and pgbench's memory have to hold.
	bulkPiece = 32 << 20
)

// bulk is one way to move much data. Its turn moves at least as many bytes as it is asked for and says how many.
type bulk struct {
	measure string
	turn    func(ctx context.Context, r *rig, p *proxy, bytes int) (int, error)
}

var bulks = []bulk{
	{"bulk/copy out wide", func(ctx context.Context, r *rig, p *proxy, bytes int) (int, error) {
		return copyOut(ctx, r, p, bytes, wideRow)
	}},
	{"bulk/copy out narrow", func(ctx context.Context, r *rig, p *proxy, bytes int) (int, error) {
		return copyOut(ctx, r, p, bytes, narrowRow)
	}},
	{"bulk/copy in", copyIn},
	{"bulk/select", selectWide},
}

// Quantities of bulk measures.
const (
	quantitySpeed = "speed" // bytes a second
	quantityPerGB = "perGB" // CPU seconds of the proxy's for a GB (10⁹ bytes)
)

func measureBulk(ctx context.Context, r *rig) error {
	if err := r.writeRows(); err != nil {
		return err
	}
	loop, stop, err := r.beside(ctx, copyName)
	if err != nil {
		return err
	}
	defer stop()
	contestants := slices.Concat(r.proxies, loop)
	for _, b := range bulks {
		r.sayf("%s", b.measure)
		err := r.rounds(ctx, contestants, func(ctx context.Context, p *proxy) error {
			before, err := readUsage(p.process)
			if err != nil {
				return err
			}
			began := time.Now()
			bytes, err := b.turn(ctx, r, p, r.mode.bulkBytes)
			took := time.Since(began)
			if err != nil {
				return err
			}
			after, err := readUsage(p.process)
			if err != nil {
				return err
			}
			r.results.add(b.measure, p.name, map[string]float64{
				quantitySpeed: float64(bytes) / took.Seconds(),
				quantityPerGB: (after.cpu - before.cpu).Seconds() / float64(bytes) * 1e9,
			})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func copyOut(ctx context.Context, r *rig, p *proxy, bytes, row int) (int, error) {
	rows := bytes/(row+1) + 1
	return rows * (row + 1), r.psql(ctx, p,
		fmt.Sprintf("COPY (SELECT repeat('x', %d) FROM generate_series(1, %d)) TO STDOUT", row, rows))
}

// copyIn sends rows that the server reads and then throws away, so that no disk takes part.
func copyIn(ctx context.Context, r *rig, p *proxy, bytes int) (int, error) {
	pieces := (bytes + bulkPiece - 1) / bulkPiece
	statements := make([]string, pieces)
	for i := range statements {
		statements[i] = fmt.Sprintf(`\copy sink from '%s' with (format text) where false`, r.file("rows"))
	}
	return pieces * piecesRows() * (wideRow + 1), r.psql(ctx, p, statements...)
}

func piecesRows() int { return bulkPiece / (wideRow + 1) }

// writeRows makes the file that COPY in reads, and pgbench's script.
func (r *rig) writeRows() error {
	line := strings.Repeat("x", wideRow) + "\n"
	if err := os.WriteFile(r.file("rows"), []byte(strings.Repeat(line, piecesRows())), 0o600); err != nil {
		return err
	}
	script := fmt.Sprintf("SELECT repeat('x', %d) FROM generate_series(1, %d);\n", wideRow, piecesRows())
	return os.WriteFile(r.file("select.sql"), []byte(script), 0o600)
}

// selectWide is an ordinary SELECT, whose rows pgbench receives and forgets.
func selectWide(ctx context.Context, r *rig, p *proxy, bytes int) (int, error) {
	pieces := (bytes + bulkPiece - 1) / bulkPiece
	out, err := r.client(ctx, p, r.pgbench, "-n", "-c", "1", "-t", fmt.Sprint(pieces), "-f", r.file("select.sql")).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	return pieces * piecesRows() * wideRow, nil
}

// psql runs statements and throws away what they return.
func (r *rig) psql(ctx context.Context, p *proxy, statements ...string) error {
	args := []string{"-X", "-q", "-v", "ON_ERROR_STOP=1"}
	for _, statement := range statements {
		args = append(args, "-c", statement)
	}
	cmd := r.client(ctx, p, r.programs.Psql, args...)
	var complaint strings.Builder
	cmd.Stdout, cmd.Stderr = nil, io.Writer(&complaint)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("psql: %w\n%s", err, complaint.String())
	}
	return nil
}
