package access

import "context"

// Due does what is due now.
func (s *Service) Due(ctx context.Context) { s.due(ctx) }

// Look is one look at the store.
func (s *Service) Look(ctx context.Context) { s.look(ctx) }
