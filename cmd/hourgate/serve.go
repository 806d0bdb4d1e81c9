package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
)

func serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gate",
		Long: "Runs the gate until SIGTERM or SIGINT, which drains it: no new connections, sessions end when they are idle,\n" +
			"at the latest after drain_timeout, and all roles are settled. A second signal ends it at once.\n" +
			"SIGHUP reads the configuration, the policy and the certificate again and reopens the trail.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, set, err := gate.Load(file)
			if err != nil {
				return err
			}
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			// After the first signal the default action is back, so that a second one ends the process.
			go func() { <-ctx.Done(); stop() }()

			level := new(slog.LevelVar)
			level.Set(cfg.LogLevel.Level)
			g, err := gate.New(ctx, cfg, set, version, gate.NewLogger(cmd.ErrOrStderr(), level))
			if err != nil {
				return failed(err)
			}
			g.Level = level
			return failed(g.Run(ctx, reload))
		},
	}
	configFlag(cmd, &file)
	return cmd
}
