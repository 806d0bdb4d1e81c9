package proxy

import (
	"bytes"
	"encoding/binary"
)

// raw is a message with a length word that may lie.
func raw(kind byte, length uint32, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, length), body...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
