package gate

import (
	"reflect"
	"slices"

	"github.com/hourgate/hourgate/proxy"
)

// liveKeys are the keys of the configuration that a running gate takes over.
var liveKeys = []string{
	"tls.cert_file", "tls.key_file", "tls.client_ca_file", "policy", "audit.statements", "audit.parameters", "audit.results", "integrations", "limits", "login_timeout", "drain_timeout", "log_level",
}

// differences returns the keys whose values differ and which need a restart.
func (c *Config) differences(o *Config) []string {
	var keys []string
	compareKeys("", reflect.ValueOf(*c), reflect.ValueOf(*o), &keys)
	return keys
}

func compareKeys(path string, a, b reflect.Value, keys *[]string) {
	for i := range a.NumField() {
		key := a.Type().Field(i).Tag.Get("yaml")
		if key == "" {
			continue
		}
		if path != "" {
			key = path + "." + key
		}
		switch field := a.Field(i); {
		case slices.Contains(liveKeys, key) || reflect.DeepEqual(field.Interface(), b.Field(i).Interface()):
		case field.Kind() == reflect.Struct && hasKeys(field.Type()):
			compareKeys(key, field, b.Field(i), keys)
		default:
			*keys = append(*keys, key)
		}
	}
}

func hasKeys(t reflect.Type) bool {
	return slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.Tag.Get("yaml") != "" })
}

// limits are those of the proxy that may change.
func (c *Config) limits() proxy.Limits {
	return proxy.Limits{
		FirstByteTimeout: c.Limits.FirstByteTimeout, StartupTimeout: c.Limits.StartupTimeout, LoginTimeout: c.LoginTimeout,
		MaxUnauthenticated: int(c.Limits.Unauthenticated), MaxUnauthenticatedPerAddress: int(c.Limits.UnauthenticatedPerAddress),
		MaxConnections:    c.connections(),
		DiscardStatements: !c.Audit.Statements, DiscardParameters: !c.Audit.Parameters,
		DiscardResults: !c.Audit.Results, StatementsWait: c.Audit.Sync,
	}
}
