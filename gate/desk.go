package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/desk"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
	wire "github.com/hourgate/hourgate/proxy/console"
)

// console fits the desk to the proxy: it is database "hourgate".
type console struct{ desk *desk.Desk }

// Open implements proxy.Console.
func (c console) Open(_ context.Context, who proxy.Info) (wire.Handler, error) {
	actor := access.Actor{Name: who.User, Operator: who.Operator}
	if err := c.desk.Admit(actor); err != nil {
		return nil, consoleError(err)
	}
	return &consoleSession{c.desk, actor}, nil
}

type consoleSession struct {
	desk *desk.Desk
	who  access.Actor
}

// Describe implements wire.Handler.
func (s *consoleSession) Describe(sql string) (wire.Description, error) {
	parameters, columns, err := s.desk.Describe(sql)
	return wire.Description{Parameters: parameters, Columns: columns}, consoleError(err)
}

// Run implements wire.Handler.
func (s *consoleSession) Run(ctx context.Context, sql string, args []*string, notice func(text string)) (wire.Result, error) {
	result, err := s.desk.Run(ctx, s.who, sql, args, notice)
	return wire.Result{Rows: result.Rows}, consoleError(err)
}

// Close implements wire.Handler.
func (s *consoleSession) Close() {}

func consoleError(err error) error {
	var told *desk.Error
	if !errors.As(err, &told) {
		return err
	}
	return &wire.Error{Code: told.Code, Message: told.Message, Detail: told.Detail, Hint: told.Hint}
}

// deskSessions fits the proxy's sessions to the desk.
type deskSessions struct{ gate *Gate }

// Sessions implements desk.Sessions.
func (d deskSessions) Sessions() []desk.Session {
	var all []desk.Session
	for _, i := range d.gate.server.Sessions() {
		s := desk.Session{
			ID: i.ID, User: i.User, Grant: i.Grant, Access: i.Access, Integration: i.Integration, Database: i.Database,
			Client: i.ClientAddress.String(), Application: i.Application, State: string(i.State), Since: i.Since, Until: i.Until,
		}
		if i.State == proxy.Running && i.Idle {
			s.State = "idle"
		}
		if !i.ClientAddress.IsValid() {
			s.Client = "admin socket"
		}
		all = append(all, s)
	}
	return all
}

// Kill implements desk.Sessions.
func (d deskSessions) Kill(id string, byOperator bool) bool {
	cause := proxy.EndedByUser
	if byOperator {
		cause = proxy.EndedByOperator
	}
	return d.gate.server.End(id, cause, "")
}

// door fits the service to the proxy's desk, where a log-in may ask and wait.
type door struct{ gate *Gate }

// Ask implements proxy.Desk.
func (d door) Ask(ctx context.Context, a proxy.Applicant, notice func(text string)) error {
	w, err := d.wish(a)
	if err != nil {
		return err
	}
	r, plan, err := d.gate.access.AskOnce(ctx, w) // a pool, or somebody who tries again, knocks more than once
	if err != nil {
		return refusedAtDoor(err, proxy.RequestInvalid)
	}
	who := access.Actor{Name: a.User}
	if r.State == access.Pending {
		notice(fmt.Sprintf("request %d is filed: %s for %s; %s may decide", r.ID, r.Access, r.For, strings.Join(plan.Deciders, ", ")))
		waiting, cancel := context.WithTimeout(ctx, a.Wait)
		defer cancel()
		r, err = d.gate.access.Await(waiting, who, r.ID)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return refusedAtDoor(err, proxy.RequestPending)
		}
	}
	switch {
	case r.State.Granted():
		notice(fmt.Sprintf("request %d is approved by %s, until %s", r.ID, r.Decisions[len(r.Decisions)-1].By, r.Until.Format("2006-01-02 15:04:05 UTC")))
		return nil
	case r.State == access.Pending:
		return &proxy.DeskRefusal{
			Reason: proxy.RequestPending, Message: fmt.Sprintf("request %d is not decided yet", r.ID),
			Hint: fmt.Sprintf("It goes on waiting until %s. Connect again once it is approved; SHOW REQUEST %d; in database hourgate tells.", r.Lapses.Format("15:04 UTC"), r.ID),
		}
	default:
		refusal := &proxy.DeskRefusal{Reason: proxy.RequestDenied, Message: fmt.Sprintf("request %d is %s", r.ID, r.State)}
		if n := len(r.Decisions); n > 0 {
			refusal.Detail = strings.TrimSuffix("By "+r.Decisions[n-1].By+": "+r.Decisions[n-1].Reason, ": ")
		}
		return refusal
	}
}

// wish is what a log-in asks for: what it said, and the first access that there is where it said none.
func (d door) wish(a proxy.Applicant) (policy.Wish, error) {
	asked := d.gate.live.Set().Asked(a.User, a.Wanted)
	w := policy.Wish{User: a.User, Access: policy.LevelName(a.Access), For: a.For, Reason: a.Reason}
	switch {
	case len(asked.Offers) == 0:
		return w, &proxy.DeskRefusal{
			Reason: proxy.RequestInvalid, Message: fmt.Sprintf("no access flow lets you ask for %q", a.Wanted),
			Hint: "SHOW ACCESS; in database hourgate lists what you can ask for.",
		}
	case asked.Target == "":
		return w, &proxy.DeskRefusal{
			Reason: proxy.RequestInvalid, Message: fmt.Sprintf("you can ask for %q on several integrations", a.Wanted), Hint: "Connect to one of: " + places(asked.Offers) + ".",
		}
	}
	integration, database, named := strings.Cut(asked.Target, "/")
	w.Integration = integration
	if named {
		w.Databases = []string{database}
	}
	if w.Access == "" {
		w.Access = asked.Offers[0].Access
	}
	return w, nil
}

// places are where offers are, as a client names them when it connects.
func places(offers []policy.Offer) string {
	var all []string
	for _, o := range offers {
		if place := o.Database + "@" + o.Integration; !slices.Contains(all, place) {
			all = append(all, place)
		}
	}
	return strings.Join(all, ", ")
}

func refusedAtDoor(err error, reason proxy.DeskReason) error {
	var why *access.Refused
	if !errors.As(err, &why) {
		return err
	}
	return &proxy.DeskRefusal{Reason: reason, Message: why.Message, Detail: why.Detail, Hint: why.Hint}
}

// listenOperators opens the admin socket, if there is to be one. One that a killed gate left behind is replaced; one that
// somebody answers is not.
func (g *Gate) listenOperators(ctx context.Context) (net.Listener, error) {
	file := g.cfg.AdminSocket
	if file == "" {
		return nil, nil //nolint:nilnil // none is no error
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", file); err == nil {
		return nil, errors.Join(fmt.Errorf("admin_socket: another gate answers at %s", file), conn.Close())
	}
	if info, err := os.Lstat(file); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(file); err != nil {
			return nil, fmt.Errorf("admin_socket: %w", err)
		}
	}
	// It is made under another name, where nobody looks, until it has its mode.
	hidden := file + ".new"
	_ = os.Remove(hidden)
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, fmt.Errorf("admin_socket: %w", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, file)); err != nil {
		return nil, errors.Join(fmt.Errorf("admin_socket: %w", err), listener.Close())
	}
	return &socketListener{listener, file}, nil
}

// socketListener removes its file when it is closed.
type socketListener struct {
	net.Listener
	file string
}

func (l *socketListener) Close() error { return errors.Join(l.Listener.Close(), os.Remove(l.file)) }

// Sessions are those of authenticated clients, the oldest first.
func (g *Gate) Sessions() []proxy.Info { return g.server.Sessions() }
