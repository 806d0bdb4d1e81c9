package proxy

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// farewell is the one place where a session ends: it tells the client, closes, logs and records.
func (s *session) farewell(err error) {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	var r *refusal
	switch {
	case errors.Is(err, errDisconnect), errors.Is(err, errClientGone), errors.Is(err, errClientQuit), errors.Is(err, errUpstreamEnded):
	case !errors.As(err, &r):
		s.log.Error("session failed", "error", err)
		r = errInternal(s.id)
	}
	s.recordEnd(r, err)
	if s.tls != nil {
		// close_notify alone could wait for five seconds for a client that does not read.
		cut := time.AfterFunc(farewellTimeout, func() { _ = s.tls.NetConn().Close() })
		defer cut.Stop()
	}
	if r != nil && (s.relay == nil || s.relay.clientAtBoundary()) {
		_ = s.client.SetDeadline(time.Now().Add(farewellTimeout))
		_ = s.send(r.response())
	}
	_ = s.client.Close() // sends close_notify
}

// recordEnd logs, counts and writes down how the connection ended.
func (s *session) recordEnd(r *refusal, err error) {
	reason := "disconnect"
	switch {
	case r != nil:
		reason = r.reason
	case errors.Is(err, errUpstreamEnded):
		reason = "upstream_error"
	}
	event := audit.SessionEnd
	if s.relay == nil {
		if r == nil && !s.started {
			return // a scan, a health check or a CancelRequest
		}
		if !s.started {
			event = audit.SessionRefused
		}
		s.server.metrics.refused.WithLabelValues(reason).Inc()
		s.log.Info("connection refused", "reason", reason, "claimed_user", printable(s.startup.user),
			"requested_database", printable(s.requestedDatabase()), "error", err)
	} else {
		s.server.metrics.ended.WithLabelValues(s.decision.Integration, reason).Inc()
		s.log.Info("session ended", "reason", reason, "duration", time.Since(s.began),
			"bytes_from_client", s.relay.fromClient.bytes.Load(), "bytes_from_upstream", s.relay.fromUpstream.bytes.Load())
	}
	record := s.record(event)
	record.Cause = reason
	if r != nil {
		record.Code = r.code
	}
	if err := s.server.cfg.Trail.Append(record); err != nil {
		s.server.metrics.trailErrors.Inc()
		s.log.Error("the end of a session could not be recorded", "error", err)
	}
}

// record starts a trail record about this session.
func (s *session) record(event audit.Event) audit.Record {
	r := audit.Record{
		Event: event,
		Subject: audit.Subject{
			Session: s.id, RemoteAddr: s.remote.String(), User: s.user, Application: s.startup.application,
			Integration: s.decision.Integration, Database: s.decision.Database, Requested: s.requestedDatabase(),
		},
	}
	if s.user == "" {
		r.User = s.startup.user // as claimed
	} else {
		r.Detail = map[string]string{"authentication": s.proof}
	}
	if s.tls != nil {
		r.TLSClient = tls.VersionName(s.tls.ConnectionState().Version)
	}
	if grant := s.decision.Grant; grant != nil {
		r.Grant, r.Access, r.Until, r.Reason = grant.Name, grant.Access.String(), grant.Until, grant.Reason
	}
	if s.lease != nil {
		r.Role = s.lease.Login().User
	}
	if s.upstream != nil {
		r.TLSUpstream = s.encryption.String()
	}
	if s.relay != nil {
		r.BytesFromClient, r.BytesFromUpstream = s.relay.fromClient.bytes.Load(), s.relay.fromUpstream.bytes.Load()
		r.Duration = time.Since(s.began).Seconds()
	}
	return r
}
