package settle

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

// The server does not ask whether anybody may execute a trigger's function when that fires, nor whose it is: the code of a tenant goes
// on as whoever writes to the table, until the trigger can be dropped. The trigger may be somebody's, or an event trigger, which
// only a superuser can drop, or the table may be locked. So its function is made to do nothing first.

const (
	doNothing = " RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF TG_LEVEL = 'STATEMENT' THEN RETURN NULL; ELSIF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END$$"
	noEvent   = " RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN END$$"
)

// defusing are the statements that make functions of the owner do nothing which triggers on other people's tables or event
// triggers call: all, or the one with the OID that is not zero.
func (s *estate) defusing(ctx context.Context, c *admin.Conn, function uint32) ([]string, error) {
	return statements(ctx, c, func(row pgx.CollectableRow) (string, error) {
		var identity string
		var event bool
		err := row.Scan(&identity, &event)
		if event {
			return "CREATE OR REPLACE FUNCTION " + identity + noEvent, err
		}
		return "CREATE OR REPLACE FUNCTION " + identity + doNothing, err
	}, `
		SELECT format('%I.%I()', n.nspname, p.proname), p.prorettype = 'event_trigger'::regtype
		  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		 WHERE p.proowner = $1 AND ($2::oid = 0 OR p.oid = $2)
		   AND (EXISTS (SELECT FROM pg_trigger t JOIN pg_class r ON r.oid = t.tgrelid WHERE t.tgfoid = p.oid AND NOT t.tgisinternal AND r.relowner <> $1 AND r.relpersistence <> 't')
		        OR EXISTS (SELECT FROM pg_event_trigger e WHERE e.evtfoid = p.oid))`, s.oid, function)
}

// defuse makes all such functions do nothing.
func (s *estate) defuse(ctx context.Context, c *admin.Conn) {
	list, err := s.defusing(ctx, c, 0)
	s.try("functions of triggers", err)
	for _, statement := range list {
		err := s.unblocked(ctx, c, func() error {
			return c.Transaction(ctx, []string{pieceLock, statement}, func([][][]byte) error { return nil })
		})
		s.try("the function of a trigger", s.st.told(err))
	}
}
