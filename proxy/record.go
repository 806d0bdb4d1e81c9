package proxy

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
	"github.com/hourgate/hourgate/internal/strangers"
)

// record starts a trail record about this session.
func (s *session) record(event audit.Event) audit.Record {
	r := audit.Record{
		Event: event,
		Subject: audit.Subject{
			Session: s.id, RemoteAddr: s.remote.String(), User: s.user, Application: strangers.Claim(s.startup.application),
			Integration: s.decision.Integration, Database: s.decision.Database, Requested: strangers.Claim(s.requestedDatabase()),
		},
	}
	if s.user == "" {
		r.User = strangers.Claim(s.startup.user)
	} else {
		r.Detail = map[string]string{"authentication": s.proof}
	}
	if s.tls != nil {
		r.TLSClient = tls.VersionName(s.tls.ConnectionState().Version)
	}
	if grant := s.decision.Grant; grant != nil {
		r.Grant, r.Access, r.Until, r.Reason = grant.Name, grant.Access.String(), grant.Until, grant.Reason
	}
	if s.phase >= connecting {
		r.Role = s.lease.Login().User
	}
	if s.phase >= welcoming {
		r.TLSUpstream = s.encryption.String()
	}
	if s.phase >= relaying {
		r.BytesFromClient, r.BytesFromUpstream = s.relay.Bytes()
		r.Duration = time.Since(s.began).Seconds()
	}
	return r
}

// announce writes the session's start.
func (s *session) announce() error {
	if err := s.server.cfg.Trail.Append(s.record(audit.SessionStart)); err != nil {
		s.server.metrics.trailErrors.Inc()
		s.log.Error("session refused: the trail can't be written", "error", err)
		return errTrail
	}
	return nil
}

// recordEnd logs, counts and writes down how the connection ended.
func (s *session) recordEnd(r *refusal, err error) {
	reason := "disconnect"
	switch {
	case r != nil:
		reason = r.reason
	case errors.Is(err, relay.ErrUpstreamEnded):
		reason = "upstream_error"
	}
	event := audit.SessionEnd
	switch {
	case s.console && s.phase >= provisioning:
		s.server.metrics.ended.WithLabelValues(ConsoleDatabase, reason).Inc()
		s.log.Info("console closed", "reason", reason, "duration", time.Since(s.began))
	case s.phase < relaying:
		if r == nil && s.phase < provisioning {
			return // a scan, a health check or a CancelRequest
		}
		if s.phase < provisioning {
			event = audit.SessionRefused
		}
		s.server.metrics.refused.WithLabelValues(reason).Inc()
		s.log.Info("connection refused", append(s.asked(), "reason", reason, "error", err)...)
	default:
		fromClient, fromUpstream := s.relay.Bytes()
		s.server.metrics.ended.WithLabelValues(s.decision.Integration, reason).Inc()
		s.log.Info("session ended", "reason", reason, "duration", time.Since(s.began),
			"bytes_from_client", fromClient, "bytes_from_upstream", fromUpstream)
	}
	record := s.record(event)
	record.Cause = reason
	if r != nil {
		record.Code = r.code
	}
	write := s.server.cfg.Trail.Append
	if event == audit.SessionRefused {
		write = func(r audit.Record) error { return s.server.refusals.Record(r, s.network, s.user != "") }
	}
	if err := write(record); err != nil {
		s.server.metrics.trailErrors.Inc()
		s.log.Error("the end of a session could not be recorded", "error", err)
	}
}

// asked is for the log: what a client asked for that the log does not name already.
func (s *session) asked() []any {
	var attrs []any
	if s.user == "" && s.startup.user != "" {
		attrs = append(attrs, "claimed_user", strangers.Printable(s.startup.user))
	}
	if s.decision.Grant == nil && s.startup.user != "" {
		attrs = append(attrs, "requested_database", strangers.Printable(s.requestedDatabase()))
	}
	return attrs
}
