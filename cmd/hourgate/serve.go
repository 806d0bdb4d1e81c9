package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/systemd"
)

// garbagePercent is GOGC, unless the environment says otherwise. A log-in leaves as much garbage as an idle session keeps, and
// half of Go's default halves how much of that is there at a time: an idle session takes 46 KiB in its first seconds in place of
// 57. While sessions are busy some 50 bytes are allocated for a transaction, so the collector runs seldom all the same.
const garbagePercent = 50

func serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gate",
		Long: "Runs the gate until SIGTERM or SIGINT, which drains it: no new connections, sessions end when they are idle,\n" +
			"at the latest after drain_timeout, and all roles are settled. A second signal ends it at once.\n" +
			"Under systemd it says when it is ready, and takes the socket of a socket unit in place of listen.\n" +
			"SIGHUP reads the configuration, the policy and the certificate again and reopens the trail.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// From the beginning, and to the end of the process: one that dies of SIGHUP is not started again by systemd.
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			level := new(slog.LevelVar)
			log := gate.NewLogger(cmd.ErrOrStderr(), level)
			cfg, set, err := gate.Load(file)
			if err != nil {
				gate.EndAccess(ctx, cfg, nil, log)
				return &unfitError{err}
			}
			level.Set(cfg.LogLevel.Level)
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(garbagePercent)
			}
			listener, err := systemd.Listener()
			if err != nil {
				return failed(err)
			}
			g, err := gate.New(ctx, cfg, set, version, log)
			if err != nil {
				return failed(err)
			}
			g.Level = level
			g.Warn(cfg.Warnings())
			watching, stopWatching := context.WithCancel(cmd.Context())
			defer stopWatching()
			g.OnOpen = func(string) { go tellSystemd(watching, ctx, g, log) }
			if listener != nil {
				return failed(g.Serve(ctx, listener, reload))
			}
			return failed(g.Run(ctx, reload))
		},
	}
	configFlag(cmd, &file)
	return cmd
}

// unfitError is what is wrong in what serve was to run with.
type unfitError struct{ error }

func (e *unfitError) Unwrap() error { return e.error }

// tellSystemd says that the gate is ready, that it still lives, which is until watching is done, and when it begins to
// stop, which is when serving is done.
func tellSystemd(watching, serving context.Context, g *gate.Gate, log *slog.Logger) {
	tell := func(err error) {
		if err != nil {
			log.Warn("systemd could not be told", "error", err)
		}
	}
	tell(systemd.Notify(watching, systemd.Ready))
	go func() {
		<-serving.Done()
		if watching.Err() == nil {
			tell(systemd.Notify(watching, systemd.Stopping))
		}
	}()
	tell(systemd.Watch(watching, g.Alive))
}

// untilSignal returns a context that the first SIGTERM or SIGINT ends. The second ends the process as if nobody listened, whatever
// the first has begun. Nobody listens any more after stop, which is called once.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2) // none is lost between the two
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	stopped := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel()
		case <-stopped:
			return
		}
		select {
		case second := <-signals:
			signal.Reset(syscall.SIGTERM, syscall.SIGINT)
			_ = syscall.Kill(os.Getpid(), second.(syscall.Signal)) // what Notify sends are these
		case <-stopped:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		cancel()
	}
}
