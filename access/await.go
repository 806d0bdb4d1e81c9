package access

import "context"

// Changed is closed when this gate has read something new from the store.
func (s *Service) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

// Await returns a request of the actor's once it waits for nothing any more, or ctx's error with the request as it is.
func (s *Service) Await(ctx context.Context, who Actor, id int64) (*Request, error) {
	for {
		changed := s.Changed()
		r, err := s.Request(context.WithoutCancel(ctx), who, id)
		if err != nil {
			return r, err
		}
		if r.State != Pending && r.State != Approved && r.extension() == nil {
			if r.State.Granted() {
				err = s.Refresh(ctx) // another gate may have decided: it must be in force here, too
			}
			return r, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

// Waiting reports whether an extension of the request waits for a decision.
func (r *Request) Waiting() bool { return r.extension() != nil }
