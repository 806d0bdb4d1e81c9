// Package systemd is what a service tells systemd and gets from it: that it is ready, that it still lives, that it stops
// (sd_notify(3)), and a socket that was opened for it (sd_listen_fds(3)). Where no systemd is, nothing happens.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// States for Notify, as sd_notify(3) has them.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	alive    = "WATCHDOG=1"
)

// Notify sends a state to systemd, if there is one that listens.
func Notify(ctx context.Context, state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", path) // a leading @ is the abstract name space, for Go too
	if err != nil {
		return fmt.Errorf("telling systemd %s: %w", state, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling systemd %s: %w", state, err)
	}
	return nil
}

// Watch tells systemd that the process lives, twice in the time that WatchdogSec= allows, until ctx is done. well is called
// before each time, and has to return: where it hangs, systemd hears nothing and starts the process anew. Without a
// watchdog it returns at once.
func Watch(ctx context.Context, well func()) error {
	interval := watchdog()
	if interval == 0 {
		return nil
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		well()
		if err := Notify(ctx, alive); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// watchdog is the time within which systemd wants to hear of this process; 0 is never.
func watchdog() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	microseconds, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || microseconds <= 0 {
		return 0
	}
	return time.Duration(microseconds) * time.Microsecond
}

// firstDescriptor is where the sockets begin that systemd passes.
const firstDescriptor = 3

// Listener is the socket that systemd has opened for this process, or nil if it has opened none. More than one is an error:
// it would not be known which is meant.
func Listener() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil //nolint:nilnil // there is none, and nothing is wrong
	}
	switch count, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); {
	case err != nil || count == 0:
		return nil, nil //nolint:nilnil // there is none, and nothing is wrong
	case count > 1:
		return nil, fmt.Errorf("systemd has passed %d sockets: one ListenStream= is enough", count)
	}
	file := os.NewFile(firstDescriptor, "socket of systemd")
	listener, err := net.FileListener(file) // has a descriptor of its own, which programs that we run don't get
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("using the socket of systemd: %w", err)
	}
	return listener, nil
}
