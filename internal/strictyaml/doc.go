// Package strictyaml decodes YAML files that people write, without YAML's traps.
//
// A file is parsed into nodes, checked against the Go type that it is to fill, and decoded, in one walk that reports
// everything that is wrong with its place: file:line:column: path: message. It is not a general YAML package: anchors,
// aliases, merge keys, tags, keys that are not text, duplicate keys, values left empty and several documents in a
// file are refused, and a value is what is written (0123 is no number, yes is no truth value, a time has an offset).
//
// The YAML library never decodes into Go values here, because gopkg.in/yaml.v3 panics on some malformed files when it
// does. This is the only package that imports it, so that it can be replaced in one place.
//
// # Types
//
// Structs whose fields have `yaml:"name"` tags (fields without one are left alone), slices, maps with string keys,
// pointers, strings, bools, integers, [time.Duration], [time.Time] and types whose pointer implements
// [encoding.TextUnmarshaler]. A struct that has both tagged fields and UnmarshalText may be written either way: as a
// mapping or as a single value. A field tagged `yaml:"name,mistaken"` is for what people write by mistake: its type refuses
// it and says what to write instead.
package strictyaml
