package preflight

import (
	"context"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
)

// Clock compares the server's clock with ours: by how much the server's is ahead, and how far off that may be, which is half
// of the time that asking took.
func (s Server) Clock(ctx context.Context) (ahead, within time.Duration, err error) {
	err = s.Pool.Use(ctx, func(c *admin.Conn) error {
		var server time.Time
		before := time.Now()
		err := c.QueryOne(ctx, `SELECT clock_timestamp()`, nil, &server)
		within = time.Since(before) / 2
		ahead = server.Sub(before.Add(within)).Round(time.Microsecond)
		return err
	})
	return ahead, within, err
}
