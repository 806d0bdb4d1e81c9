package console

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/strangers"
)

// maxNames and maxKept, in bytes, bound what a session may prepare and bind.
const (
	maxNames = 1000
	maxKept  = 1 << 20
)

// statement is a prepared one.
type statement struct {
	sql         string // one statement, or none
	description Description
	types       []uint32 // of the parameters, as the client named them; 0 where it did not
	size        int      // of the message that it came with
}

// portal is a statement with its arguments, and what is left of its result.
type portal struct {
	statement *statement
	args      []*string
	result    *Result // nil until it was run
	size      int     // of the message that it came with, and of its statement's
}

func (c *Conn) parse(body []byte) error {
	var m pgproto3.Parse
	if m.Decode(body) != nil {
		return &Error{Code: pgerrcode.ProtocolViolation, Message: "invalid Parse message"}
	}
	statements := splitStatements(m.Query)
	switch {
	case len(statements) > 1:
		return &Error{Code: pgerrcode.SyntaxError, Message: "cannot insert multiple commands into a prepared statement"}
	case m.Name != "" && c.prepared[m.Name] != nil:
		return &Error{Code: pgerrcode.DuplicatePreparedStatement, Message: fmt.Sprintf("prepared statement %q already exists", strangers.Printable(m.Name))}
	}
	c.deallocate(m.Name)
	if len(c.prepared) >= maxNames || c.kept+len(body) > maxKept {
		return &Error{Code: pgerrcode.InsufficientResources, Message: "too many prepared statements", Hint: "DEALLOCATE ALL; forgets them."}
	}
	prepared := &statement{types: m.ParameterOIDs, size: len(body)}
	if len(statements) == 1 {
		prepared.sql = statements[0]
		chore, own := c.housekeeping(prepared.sql)
		prepared.description = chore.Description
		if !own {
			var err error
			if prepared.description, err = c.cfg.Handler.Describe(prepared.sql); err != nil {
				return err
			}
		}
	}
	c.prepared[m.Name] = prepared
	c.kept += prepared.size
	c.put(&pgproto3.ParseComplete{})
	return nil
}

func (c *Conn) bind(body []byte) error {
	var m pgproto3.Bind
	if m.Decode(body) != nil {
		return &Error{Code: pgerrcode.ProtocolViolation, Message: "invalid Bind message"}
	}
	prepared := c.prepared[m.PreparedStatement]
	switch {
	case prepared == nil:
		return &Error{Code: pgerrcode.InvalidSQLStatementName, Message: fmt.Sprintf("prepared statement %q does not exist", strangers.Printable(m.PreparedStatement))}
	case len(m.Parameters) != prepared.description.Parameters:
		return &Error{Code: pgerrcode.ProtocolViolation, Message: fmt.Sprintf("bind message supplies %d parameters, but the statement requires %d",
			len(m.Parameters), prepared.description.Parameters)}
	case m.DestinationPortal != "" && c.portals[m.DestinationPortal] != nil:
		return &Error{Code: pgerrcode.DuplicateCursor, Message: fmt.Sprintf("portal %q already exists", strangers.Printable(m.DestinationPortal))}
	}
	c.closePortal(m.DestinationPortal)
	if len(c.portals) >= maxNames || c.kept+len(body)+prepared.size > maxKept {
		return &Error{Code: pgerrcode.InsufficientResources, Message: "too many portals"}
	}
	bound := &portal{statement: prepared, size: len(body) + prepared.size} // the statement may be forgotten before it
	for i, value := range m.Parameters {
		var oid uint32
		if i < len(prepared.types) {
			oid = prepared.types[i]
		}
		text, err := argument(value, oid, format(m.ParameterFormatCodes, i))
		if err != nil {
			return err
		}
		bound.args = append(bound.args, text)
	}
	c.portals[m.DestinationPortal] = bound
	c.kept += bound.size
	c.put(&pgproto3.BindComplete{})
	return nil
}

// format is that of the i-th value: one code counts for all, and none is text.
func format(codes []int16, i int) int16 {
	switch {
	case len(codes) == 1:
		return codes[0]
	case i < len(codes):
		return codes[i]
	}
	return pgproto3.TextFormat
}

// argument makes text of a parameter. Drivers send some types in binary whatever the server says of them.
func argument(value []byte, oid uint32, format int16) (*string, error) {
	if value == nil {
		return nil, nil //nolint:nilnil // NULL
	}
	text := string(value)
	if format == pgproto3.BinaryFormat {
		switch {
		case oid == 16 && len(value) == 1: // bool
			text = strconv.FormatBool(value[0] != 0)
		case oid == 21 && len(value) == 2: // int2
			text = strconv.Itoa(int(int16(binary.BigEndian.Uint16(value)))) //nolint:gosec // two's complement
		case oid == 23 && len(value) == 4: // int4
			text = strconv.Itoa(int(int32(binary.BigEndian.Uint32(value)))) //nolint:gosec // two's complement
		case oid == 20 && len(value) == 8: // int8
			text = strconv.FormatInt(int64(binary.BigEndian.Uint64(value)), 10) //nolint:gosec // two's complement
		case oid == 0 || oid == textOID || oid == 1043 || oid == 705: // text, varchar, unknown
		default:
			return nil, &Error{Code: pgerrcode.FeatureNotSupported, Message: fmt.Sprintf("binary parameters of type %d can't be read here", oid), Hint: "Pass text."}
		}
	}
	return &text, nil
}

func (c *Conn) describe(body []byte) error {
	var m pgproto3.Describe
	if m.Decode(body) != nil {
		return &Error{Code: pgerrcode.ProtocolViolation, Message: "invalid Describe message"}
	}
	var prepared *statement
	if m.ObjectType == 'S' {
		if prepared = c.prepared[m.Name]; prepared == nil {
			return &Error{Code: pgerrcode.InvalidSQLStatementName, Message: fmt.Sprintf("prepared statement %q does not exist", strangers.Printable(m.Name))}
		}
		c.put(&pgproto3.ParameterDescription{ParameterOIDs: prepared.parameterTypes()})
	} else {
		bound := c.portals[m.Name]
		if bound == nil {
			return &Error{Code: pgerrcode.InvalidCursorName, Message: fmt.Sprintf("portal %q does not exist", strangers.Printable(m.Name))}
		}
		prepared = bound.statement
	}
	if prepared.description.Columns == nil {
		c.put(&pgproto3.NoData{})
	} else {
		c.put(rowDescription(prepared.description.Columns))
	}
	return nil
}

// parameterTypes are text, unless the client has said otherwise.
func (s *statement) parameterTypes() []uint32 {
	types := make([]uint32, s.description.Parameters)
	for i := range types {
		types[i] = textOID
		if i < len(s.types) && s.types[i] != 0 {
			types[i] = s.types[i]
		}
	}
	return types
}

func (c *Conn) execute(ctx context.Context, body []byte) error {
	var m pgproto3.Execute
	if m.Decode(body) != nil {
		return &Error{Code: pgerrcode.ProtocolViolation, Message: "invalid Execute message"}
	}
	portal := c.portals[m.Portal]
	switch {
	case portal == nil:
		return &Error{Code: pgerrcode.InvalidCursorName, Message: fmt.Sprintf("portal %q does not exist", strangers.Printable(m.Portal))}
	case portal.statement.sql == "":
		c.put(&pgproto3.EmptyQueryResponse{})
		return nil
	}
	if portal.result == nil {
		_, result, err := c.run(ctx, portal.statement.sql, portal.args, func(Description) error { return nil })
		if err != nil {
			return err
		}
		portal.result = &result
	}
	rows := portal.result.Rows
	if m.MaxRows > 0 && int64(len(rows)) > int64(m.MaxRows) {
		rows = rows[:m.MaxRows]
	}
	for _, row := range rows {
		c.put(dataRow(row))
	}
	if len(rows) < len(portal.result.Rows) {
		portal.result.Rows = portal.result.Rows[len(rows):]
		c.put(&pgproto3.PortalSuspended{})
		return nil
	}
	c.put(portal.result.complete())
	portal.result.Rows = nil
	return nil
}

func (c *Conn) close(body []byte) error {
	var m pgproto3.Close
	if m.Decode(body) != nil {
		return &Error{Code: pgerrcode.ProtocolViolation, Message: "invalid Close message"}
	}
	if m.ObjectType == 'S' {
		c.deallocate(m.Name)
	} else {
		c.closePortal(m.Name)
	}
	c.put(&pgproto3.CloseComplete{})
	return nil
}

// deallocate forgets a prepared statement, and reports whether there was one.
func (c *Conn) deallocate(name string) bool {
	prepared, there := c.prepared[name]
	if there {
		c.kept -= prepared.size
		delete(c.prepared, name)
	}
	return there
}

func (c *Conn) deallocateAll() {
	for name := range c.prepared {
		c.deallocate(name)
	}
}

func (c *Conn) closePortal(name string) {
	if bound := c.portals[name]; bound != nil {
		c.kept -= bound.size
		delete(c.portals, name)
	}
}

func (c *Conn) closePortals() {
	for name := range c.portals {
		c.closePortal(name)
	}
}
