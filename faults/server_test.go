//go:build faults

package faults

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// serverDiskSize has room for a server with its WAL.
const serverDiskSize = 256 << 20

// fillWAL fills the server's disk and has the server write until it needs another file for its WAL, of which it dies. It is started
// again when there is room.
func fillWAL(r *rig) (mend func()) {
	free := fillDisk(r.serverDisk)
	ctx, cancel := context.WithTimeout(context.Background(), breaksFor)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", r.db.Server.SocketDir, r.db.Server.Port))
	for err == nil {
		_, err = conn.Exec(ctx, "SELECT pg_switch_wal(), txid_current()")
	}
	if ctx.Err() != nil {
		r.t.Errorf("the server lives with a full disk: %v", err)
	}
	return func() {
		free()
		r.db.Server.Stop(r.t, pgtest.Immediate)
		r.db.Server.Start(r.t)
	}
}

const serverName = "orders.db.hourgate.test"

// nameServer has the gate reach the server by a name, which a file instead of /etc/hosts knows, and nobody else: the gate runs in a
// mount namespace of its own.
func (r *rig) nameServer() {
	r.t.Helper()
	r.hosts = r.gate.Write(r.t, "hosts", named)
	resolv := r.gate.Write(r.t, "resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
	r.program = r.gate.Write(r.t, "named", fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /etc/hosts && mount --bind %s /etc/resolv.conf && exec %s \"$@\"' sh \"$@\"\n",
		r.hosts, resolv, gatetest.Binary(r.t)))
	if err := os.Chmod(r.program, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.reconfigure("hostname: localhost", "hostname: "+serverName+"\n    ssl_server_name: localhost")
}

const named = "127.0.0.1 localhost " + serverName + "\n"

// unname takes the server's name away, and cuts what is connected.
func unname(r *rig) (mend func()) {
	write := func(content string) {
		if err := os.WriteFile(r.hosts, []byte(content), 0o600); err != nil {
			r.t.Error(err)
		}
	}
	write(strings.ReplaceAll(named, serverName, ""))
	r.upstream.set(true, false, 0) // Go's resolver remembers the file for five seconds
	r.upstream.cut(false)
	return func() {
		write(named)
		r.upstream.set(false, false, 0)
	}
}
