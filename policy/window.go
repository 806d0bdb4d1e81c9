package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a zone means the same on machines that have no zone files
)

// A Window is a part of the week, by the clocks of a place.
type Window struct {
	Days []Day     `yaml:"days"` // none: all
	From TimeOfDay `yaml:"from"` // the first minute
	To   TimeOfDay `yaml:"to"`   // the first minute after; before From for a window that goes past midnight
	Zone Zone      `yaml:"time_zone"`
}

// A Day of the week, written as mon to sun.
type Day struct{ time.Weekday }

var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// UnmarshalText reads mon, tue, wed, thu, fri, sat or sun.
func (d *Day) UnmarshalText(text []byte) error {
	i := slices.Index(days, string(text))
	if i < 0 {
		return fmt.Errorf("want mon, tue, wed, thu, fri, sat or sun, got %q", shorten(string(text)))
	}
	d.Weekday = time.Weekday(i)
	return nil
}

// TimeOfDay is what clocks on the wall show, from 00:00 to 24:00.
type TimeOfDay struct {
	minutes int
	set     bool
}

// UnmarshalText reads hours and minutes, such as 08:00.
func (t *TimeOfDay) UnmarshalText(text []byte) error {
	s := string(text)
	digits := len(s) == 5 && s[2] == ':' && !strings.ContainsFunc(s[:2]+s[3:], func(r rune) bool { return r < '0' || r > '9' })
	if digits {
		hours, minutes := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
		if hours < 24 && minutes < 60 || s == "24:00" {
			t.minutes, t.set = hours*60+minutes, true
			return nil
		}
	}
	return fmt.Errorf("want a time of day from 00:00 to 24:00, such as 08:00, got %q", shorten(s))
}

func (t TimeOfDay) String() string { return fmt.Sprintf("%02d:%02d", t.minutes/60, t.minutes%60) }

// Zone is a time zone; the zero Zone is UTC.
type Zone struct{ location *time.Location }

// UnmarshalText reads a name of the IANA time zone database.
func (z *Zone) UnmarshalText(text []byte) error {
	name := string(text)
	location, err := time.LoadLocation(name)
	if err != nil || name == "Local" || name == "" {
		return fmt.Errorf("unknown time zone %q (want a name such as Europe/Berlin or UTC)", shorten(name))
	}
	z.location = location
	return nil
}

// Contains reports whether now is in the window. The window is one of clocks on the wall: when these are set back an
// hour, the hour counts twice.
func (w *Window) Contains(now time.Time) bool {
	if w.Zone.location == nil {
		now = now.UTC()
	} else {
		now = now.In(w.Zone.location)
	}
	minute := now.Hour()*60 + now.Minute()
	from, to := w.From.minutes, w.To.minutes
	if !w.To.set {
		to = 24 * 60
	}
	on := func(d time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, Day{d}) }
	if from < to {
		return on(now.Weekday()) && minute >= from && minute < to
	}
	// Past midnight: the early hours belong to the day before.
	return minute >= from && on(now.Weekday()) || minute < to && on((now.Weekday()+6)%7)
}

// String is the window in words, for a person to read.
func (w *Window) String() string {
	var words []string
	if len(w.Days) > 0 {
		names := make([]string, len(w.Days))
		for i, d := range w.Days {
			names[i] = days[d.Weekday]
		}
		words = append(words, strings.Join(names, ", "))
	}
	if w.From.set || w.To.set {
		to := w.To
		if !to.set {
			to.minutes = 24 * 60
		}
		words = append(words, w.From.String()+" to "+to.String())
	}
	zone := "UTC"
	if w.Zone.location != nil {
		zone = w.Zone.location.String()
	}
	return strings.Join(append(words, zone), " ")
}
