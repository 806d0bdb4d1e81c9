package proxy

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/strangers"
)

// petition is what the options hourgate.… of a startup packet have said.
type petition struct {
	reason, access    string
	duration, patient time.Duration
}

const (
	maxPetitionReason = 1000
	defaultPatience   = 5 * time.Minute
	maxPatience       = 30 * time.Minute
	petitionPrefix    = "hourgate."
)

// setPetition takes an option of ours in. Its name has the prefix.
func (s *startup) setPetition(name, value string) error {
	if s.petition == nil {
		s.petition = &petition{patient: defaultPatience}
	}
	p := s.petition
	switch strings.TrimPrefix(name, petitionPrefix) {
	case "reason":
		if len(value) > maxPetitionReason || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			return invalidPetition(name, "want at most 1,000 bytes of UTF-8 without control characters")
		}
		p.reason = value
	case "access":
		p.access = strangers.Printable(value)
	case "for":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return invalidPetition(name, "want a duration such as 2h or 30m")
		}
		p.duration = d
	case "wait":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > maxPatience {
			return invalidPetition(name, "want a duration of at most 30m, such as 5m, or 0s")
		}
		p.patient = d
	default:
		return invalidPetition(name, "there are hourgate.reason, hourgate.access, hourgate.for and hourgate.wait")
	}
	return nil
}

func invalidPetition(name, want string) *refusal {
	return &refusal{
		code: pgerrcode.InvalidParameterValue, reason: "parameter",
		message: fmt.Sprintf("invalid value or name of parameter %q", strangers.Printable(name)), detail: want,
	}
}
