package console

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/relay"
)

// fail tells the client of an error, after which the session goes on. What the session must not survive is returned.
func (c *Conn) fail(ctx context.Context, err error) error {
	var told *Error
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, new(recordError)):
		return err
	case !errors.As(err, &told):
		c.cfg.Log.Error("console statement failed", "error", err)
		told = &Error{Code: pgerrcode.InternalError, Message: "internal error, session " + c.cfg.Session, Hint: "Tell the operators of this gate the session's name."}
	}
	if c.status == 'T' {
		c.status = 'E'
	}
	c.put(&pgproto3.ErrorResponse{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: told.SQLState(), Message: told.Message, Detail: told.Detail, Hint: told.Hint,
	})
	return c.flush()
}

func (c *Conn) ready() { c.put(&pgproto3.ReadyForQuery{TxStatus: c.status}) }

// maxWaiting is how much waits for a flush. A client that never asks for one must not fill the memory of the gate.
const maxWaiting = 64 << 10

// put adds a message to those that flush sends.
func (c *Conn) put(m pgproto3.BackendMessage) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if b, err := m.Encode(c.out); err == nil { // it fails for messages beyond 1 GiB
		c.out = b
	}
	if len(c.out) > maxWaiting {
		c.write()
	}
}

// writeTimeout bounds how long a client may take to read an answer.
const writeTimeout = 30 * time.Second

func (c *Conn) flush() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.write()
	if c.lost {
		return relay.ErrClientGone
	}
	return nil
}

// write sends what waits; the mutex is held. A client that has not taken it in time is waited for once.
func (c *Conn) write() {
	if !c.lost && len(c.out) > 0 {
		_ = c.cfg.Client.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := c.cfg.Client.Write(c.out)
		c.lost = err != nil
	}
	c.out = c.out[:0]
}

// complete is the message that ends a result.
func (r Result) complete() *pgproto3.CommandComplete {
	if r.Tag == "" {
		return &pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", len(r.Rows))}
	}
	return &pgproto3.CommandComplete{CommandTag: []byte(r.Tag)}
}

const textOID = 25

func rowDescription(columns []string) *pgproto3.RowDescription {
	d := &pgproto3.RowDescription{}
	for _, name := range columns {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(name), DataTypeOID: textOID, DataTypeSize: -1, TypeModifier: -1})
	}
	return d
}

func dataRow(row []*string) *pgproto3.DataRow {
	d := &pgproto3.DataRow{}
	for _, value := range row {
		if value == nil {
			d.Values = append(d.Values, nil)
		} else {
			d.Values = append(d.Values, []byte(*value))
		}
	}
	return d
}
