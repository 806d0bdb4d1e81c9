//go:build faults

package faults

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
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

// fillServer takes all connections that ordinary users can have, and each that becomes free, as an application that leaks them
// does. One after the other: on a machine with few processors dozens at once would be another fault.
func fillServer(r *rig) (mend func()) {
	ctx, cancel := context.WithCancel(context.Background())
	full, emptied := make(chan struct{}), make(chan struct{})
	address := r.db.Server.URL(r.db.Owner, r.db.OwnerPassword, r.db.Name)
	address.RawQuery = "sslmode=disable"
	go func() {
		defer close(emptied)
		var held []*pgx.Conn
		refused := sync.OnceFunc(func() { close(full) })
		for ctx.Err() == nil {
			conn, err := pgx.Connect(ctx, address.String())
			if err == nil {
				held = append(held, conn)
				continue
			}
			refused()
			pause(ctx, 100*time.Millisecond)
		}
		for _, conn := range held {
			_ = conn.Close(context.Background())
		}
	}()
	<-full
	return func() { cancel(); <-emptied }
}

func fillDisk(disk *testdisk.Disk) func() {
	file := disk.Folder + "/ballast"
	out, err := os.Create(file)
	if err == nil {
		for step := int64(64 << 20); step >= 1<<20; step /= 2 { // most of it without writing
			for end := int64(0); syscall.Fallocate(int(out.Fd()), 0, end, step) == nil; end += step {
			}
		}
		_, _ = out.Seek(0, io.SeekEnd)
		_, _ = io.CopyN(out, zeros{}, 1<<30) // until it is full
		_ = out.Close()
	}
	return func() { _ = os.Remove(file) }
}

// failOver kills the server and promotes its replica, to which the name leads from then on.
func failOver(r *rig) func() {
	r.db.Server.Kill(r.t)
	r.promoted.Store(true)
	r.upstream.lead(r.replica.Address())
	if _, err := r.count(`SELECT pg_promote()::int`); err != nil {
		r.t.Errorf("promoting: %v", err)
	}
	return nil
}
