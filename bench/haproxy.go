//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hourgate/hourgate/internal/pgserver"
)

// haproxyConfig passes bytes on: the client's TLS ends at the server.
const haproxyConfig = `global
    nbthread 1
    maxconn %d

defaults
    mode tcp
    timeout connect 10s
    timeout client 24h
    timeout server 24h

listen postgresql
    bind 127.0.0.1:%d
    server server 127.0.0.1:%d
`

func (r *rig) startHAProxy(ctx context.Context, upstream int) (*proxy, error) {
	program, err := findProgram("haproxy")
	if err != nil {
		return nil, err
	}
	port, err := pgserver.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	files, err := raiseFileLimit()
	if err != nil {
		return nil, err
	}
	folder, err := r.proxyFolder(haproxyName)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(folder, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConfig, min(20_000, files/2-100), port, upstream), 0o600); err != nil {
		return nil, err
	}
	process, err := r.startProcess(filepath.Base(folder), nil, nil, program, "-db", "-f", file)
	if err != nil {
		return nil, err
	}
	return &proxy{name: haproxyName, port: port, process: process}, process.awaitPort(ctx, port)
}
