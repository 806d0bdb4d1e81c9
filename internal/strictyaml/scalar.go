package strictyaml

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"
)

// scalar decodes a single value. Its text is taken as written, never as what YAML makes of it. The text is repeated
// in a problem only where it cannot be a secret: not for strings, and not for types that read text themselves.
func (d *decoder) scalar(path string, n *yaml.Node, out reflect.Value) {
	var err error
	switch v := out.Addr().Interface().(type) {
	case *time.Time:
		*v, err = parseTime(n.Value)
	case *time.Duration:
		*v, err = parseDuration(n.Value)
	case encoding.TextUnmarshaler:
		err = v.UnmarshalText([]byte(n.Value))
	default:
		err = d.basic(n, out)
	}
	if err != nil {
		d.reject(path, n, err.Error())
	}
}

func (d *decoder) basic(n *yaml.Node, out reflect.Value) (err error) {
	quoted := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch out.Kind() {
	case reflect.String:
		out.SetString(n.Value)
	case reflect.Bool:
		if quoted || n.Value != "true" && n.Value != "false" {
			return fmt.Errorf("want true or false without quotes, got %s", quote(n.Value))
		}
		out.SetBool(n.Value == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if quoted || !wholeNumber.MatchString(n.Value) {
			return fmt.Errorf("want a whole number without quotes, got %s", quote(n.Value))
		}
		return setInteger(n.Value, out)
	default:
		return fmt.Errorf("%s, got a single value", d.want(out))
	}
	return nil
}

// wholeNumber is decimal only: 0123, 0x1f and 1_000 mean different numbers to different readers.
var wholeNumber = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

func setInteger(text string, out reflect.Value) error {
	bits := out.Type().Bits()
	if out.CanUint() {
		u, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			return fmt.Errorf("want a number from 0 to %d, got %s", uint64(math.MaxUint64)>>(64-bits), short(text))
		}
		out.SetUint(u)
		return nil
	}
	i, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		return fmt.Errorf("want a number from %d to %d, got %s", math.MinInt64>>(64-bits), math.MaxInt64>>(64-bits), short(text))
	}
	out.SetInt(i)
	return nil
}

// parseTime reads RFC 3339. Times are kept in UTC, whatever their offset and the machine's zone are.
func parseTime(text string) (time.Time, error) {
	var t time.Time
	if err := t.UnmarshalText([]byte(text)); err != nil {
		return time.Time{}, fmt.Errorf("%s is not a time with an offset (want such as 2026-11-22T17:00:00Z or 2026-11-22T18:00:00+01:00)", quote(text))
	}
	return t.UTC(), nil
}

func parseDuration(text string) (time.Duration, error) {
	v, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%s is not a duration (want such as 30s, 1m or 4h)", quote(text))
	}
	if v < 0 {
		return 0, errors.New("a duration cannot be negative")
	}
	return v, nil
}

// quote returns text in quotes, short enough for a line.
func quote(text string) string { return strconv.Quote(short(text)) }

func short(text string) string {
	const limit = 80
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "…"
}
