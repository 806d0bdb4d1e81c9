package proxy_test

import "github.com/jackc/pgx/v5/pgproto3"

// fatal is an ErrorResponse with the fields that the gate sets.
func fatal(code, message, detail, hint string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message, Detail: detail, Hint: hint,
	}
}
