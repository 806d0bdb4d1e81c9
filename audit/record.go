package audit

import (
	"slices"
	"time"
)

// Event says what a record is about. The set is closed: [Trail.Append] refuses any other value, so that whoever reads
// a trail can rely on the list.
type Event string

// The events. Those that announce an act are written before the act.
const (
	SessionStart   Event = "session_start"   // a user was let in
	SessionRefused Event = "session_refused" // a user was turned away: Code and Cause say why
	SessionEnd     Event = "session_end"     // a session that had started is over: Cause, Duration, bytes

	SessionForeign Event = "session_foreign" // a session under an ephemeral role that did not come through the gate was terminated

	SessionInside Event = "session_inside" // a session of somebody else was inside code that the role made when access ended

	SessionStatement Event = "statement" // a session is about to ask the server for something; written by Trail.Statement only

	StatementResult Event = "statement_result" // what became of a statement: Command, Rows, Duration, Code; written by Trail.Result only

	RoleMade         Event = "role_made"          // an ephemeral role is about to be made
	RoleMakeFailed   Event = "role_make_failed"   // it was not made: Error
	RoleSettled      Event = "role_settled"       // a role is about to be, or was, ended with everything of it
	RoleSettleFailed Event = "role_settle_failed" // it could not be settled now, and will be tried again: Error
	RoleTombstoned   Event = "role_tombstoned"    // it can no longer log in, but could not be dropped: Error

	PolicyLoaded   Event = "policy_loaded"   // a policy took effect
	PolicyRejected Event = "policy_rejected" // a policy was bad and the one before it stays: Error

	// What became of a request: Detail has its number, the flow and the requestor, User who did it, if anybody did.
	RequestFiled     Event = "request_filed"
	RequestSeconded  Event = "request_seconded" // an approval, and more are needed
	RequestApproved  Event = "request_approved" // it is about to be access, until Until
	RequestActive    Event = "request_active"   // it is in force
	RequestDenied    Event = "request_denied"
	RequestWithdrawn Event = "request_withdrawn"
	RequestLapsed    Event = "request_lapsed"
	RequestExtended  Event = "request_extended"  // its end moves to Until
	RequestShortened Event = "request_shortened" // likewise, because the flow in force allows less
	RequestEnded     Event = "request_ended"     // Detail says how: expired, ended by owner, revoked, no longer allowed
	RequestReviewed  Event = "request_reviewed"
	ExtensionFiled   Event = "extension_filed"
	ExtensionDenied  Event = "extension_denied"
	ExtensionLapsed  Event = "extension_lapsed"
	LockSet          Event = "lock_set"
	LockLifted       Event = "lock_lifted"
	SessionKilled    Event = "session_killed" // somebody is about to end it
	StateRestored    Event = "state_restored" // the state is older than what was seen: all its requests are about to be ended

	ProxyStarted Event = "proxy_started"
	ProxyStopped Event = "proxy_stopped"

	// Written by this package.
	TrailOpened    Event = "trail_opened"    // first record of each process and of each rotated file
	TrailRecovered Event = "trail_recovered" // something was amiss with the trail's own files: Detail says what became of it
	TrailClosed    Event = "trail_closed"    // last record of a process that ended in order
)

var events = []Event{
	SessionStart, SessionRefused, SessionEnd, SessionForeign, SessionInside, SessionStatement, StatementResult,
	RoleMade, RoleMakeFailed, RoleSettled, RoleSettleFailed, RoleTombstoned,
	RequestFiled, RequestSeconded, RequestApproved, RequestActive, RequestDenied, RequestWithdrawn, RequestLapsed,
	RequestExtended, RequestShortened, RequestEnded, RequestReviewed, ExtensionFiled, ExtensionDenied, ExtensionLapsed,
	LockSet, LockLifted, SessionKilled, StateRestored,
	PolicyLoaded, PolicyRejected, ProxyStarted, ProxyStopped, TrailOpened, TrailRecovered, TrailClosed,
}

// happened are the events of what is over, or takes access away. Ending access needs no disk, so nobody waits for them.
var happened = []Event{
	SessionRefused, SessionEnd, SessionForeign, SessionInside, StatementResult, RoleMakeFailed, RoleSettleFailed, RoleTombstoned, PolicyLoaded, PolicyRejected,
	RequestDenied, RequestWithdrawn, RequestLapsed, RequestShortened, RequestEnded, ExtensionDenied, ExtensionLapsed,
	LockSet, SessionKilled, StateRestored, ProxyStopped, TrailRecovered,
}

func (e Event) known() bool { return slices.Contains(events, e) }

// Announces says that a record of the event is written before the act, which must not happen without it.
func (e Event) Announces() bool { return !slices.Contains(happened, e) }

// Record is one line of the trail. In JSON it is flat, so that grep, jq and a spreadsheet can read it; a field that is not
// set is left out. Strings may hold anything that a client sent: they are JSON-escaped, so none can end the line or add a
// field, and bytes that are not UTF-8 become U+FFFD. No field may ever hold a secret. docs/trail.md lists the fields.
type Record struct {
	Link

	Time  time.Time `json:"time"`  // UTC, RFC 3339 with nanoseconds. Append sets it when it is zero
	Event Event     `json:"event"` // required

	Gate
	Subject
	Right
	Outcome
	Means
	Traffic
	Remains
	Asked
	Answered
	Policy

	Error string `json:"error,omitempty"`

	// Detail holds what only one event has, such as the name of a file set aside. Keys are snake_case and come from
	// the code, never from a client.
	Detail map[string]string `json:"detail,omitempty"`
}

// Link chains the record to the one before. Append sets it; what the caller put there is ignored.
type Link struct {
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"`
}

// Gate says which proxy writes. Append fills both from Options when they are empty.
type Gate struct {
	Deployment string `json:"deployment,omitempty"`
	Proxy      string `json:"proxy,omitempty"`
}

// Subject says who, from where, to what.
type Subject struct {
	Session     string `json:"session,omitempty"`
	User        string `json:"user,omitempty"` // as authenticated, or, when refused, as claimed
	RemoteAddr  string `json:"remote_addr,omitempty"`
	Application string `json:"application,omitempty"` // application_name, as claimed by the client
	Integration string `json:"integration,omitempty"`
	Database    string `json:"database,omitempty"`
	Requested   string `json:"requested,omitempty"` // the database that the client asked for, in its own words
}

// Right says by what right.
type Right struct {
	Grant  string    `json:"grant,omitempty"`
	Access string    `json:"access,omitempty"`
	Until  time.Time `json:"until,omitzero"`   // end of the grant
	Reason string    `json:"reason,omitempty"` // why access was given: the ticket or justification of the grant
}

// Outcome says why something ended or was refused.
type Outcome struct {
	Cause string `json:"cause,omitempty"` // from a closed set, such as grant_expired
	Code  string `json:"code,omitempty"`  // SQLSTATE that the client was sent by the gate, or by the server (statement_result)

	// Of a session_refused that stands for many, so that strangers can't fill the disk: how many, since when. RemoteAddr is
	// the network that they came from; empty when they came from many.
	Count int64     `json:"count,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Means says through what.
type Means struct {
	Role        string `json:"role,omitempty"` // ephemeral role
	RoleOID     uint32 `json:"role_oid,omitempty"`
	TLSClient   string `json:"tls_client,omitempty"`   // negotiated with the client, such as "TLS 1.3"
	TLSUpstream string `json:"tls_upstream,omitempty"` // negotiated with the server, and whether it was verified
}

// Traffic is what a session or a role has come to.
type Traffic struct {
	BytesFromClient    int64   `json:"bytes_from_client,omitempty"`
	BytesFromUpstream  int64   `json:"bytes_from_upstream,omitempty"`
	Duration           float64 `json:"duration,omitempty"` // seconds
	SessionsTerminated int     `json:"sessions_terminated,omitempty"`
}

// Remains is what a role left behind, in PostgreSQL's words, and what became of it.
type Remains struct {
	Dropped     []string `json:"dropped,omitempty"`
	Quarantined []string `json:"quarantined,omitempty"` // handed to a powerless role, because others depend on it
	Handed      []string `json:"handed,omitempty"`      // to the role of keep_objects_as, which is in HandedTo
	HandedTo    string   `json:"handed_to,omitempty"`
	HeldBy      []string `json:"held_by,omitempty"` // what keeps a role from being dropped
	Left        []string `json:"left,omitempty"`    // what may be other people's, and was left where it is
}

// Policy is what policy files say, and what that changes. Lists have a hundred names at most, and then say how many more.
type Policy struct {
	PolicyHash    string   `json:"policy_hash,omitempty"`  // SHA-256 over the files' names and contents
	PolicyFiles   []string `json:"policy_files,omitempty"` // path, owner and time of the last change of each
	UsersAdded    []string `json:"users_added,omitempty"`
	UsersRemoved  []string `json:"users_removed,omitempty"` // or disabled
	UsersChanged  []string `json:"users_changed,omitempty"` // in their groups or in how they prove who they are
	GrantsAdded   []string `json:"grants_added,omitempty"`
	GrantsRemoved []string `json:"grants_removed,omitempty"`
	GrantsMoved   []string `json:"grants_moved,omitempty"` // in time only
	GrantsChanged []string `json:"grants_changed,omitempty"`
	FlowsAdded    []string `json:"flows_added,omitempty"`
	FlowsRemoved  []string `json:"flows_removed,omitempty"`
	FlowsChanged  []string `json:"flows_changed,omitempty"`
	TakenAway     []string `json:"taken_away,omitempty"` // by a policy that was otherwise refused
}

// Asked is what a session asked for: see Statement. What is not UTF-8 is in the field whose name ends in _base64 instead.
type Asked struct {
	Kind            StatementKind `json:"kind,omitempty"`
	Statement       string        `json:"statement,omitempty"`
	StatementBase64 []byte        `json:"statement_base64,omitempty"`
	Prepared        string        `json:"prepared,omitempty"` // name of the prepared statement
	PreparedBase64  []byte        `json:"prepared_base64,omitempty"`
	Portal          string        `json:"portal,omitempty"`
	PortalBase64    []byte        `json:"portal_base64,omitempty"`
	FunctionOID     uint32        `json:"function_oid,omitempty"`
	Parameters      []Parameter   `json:"parameters,omitempty"`      // of a Bind, or the arguments of a FunctionCall
	StatementBytes  int64         `json:"statement_bytes,omitempty"` // length of COPY's data
	Call            uint32        `json:"call,omitempty"`            // number within its session of what has results; they have the same
	Redacted        bool          `json:"redacted,omitempty"`        // a password was replaced

	// StatementNumber grows from one statement to the next. It numbers places in the spool, so it has gaps. Other records that
	// came by way of the spool have it, too.
	StatementNumber uint64 `json:"statement_number,omitempty"`
}

// Answered is what the server said: see Result. Duration is from when the statement was sent, or the answer before it came, to its
// end; answers that come in one piece share it.
type Answered struct {
	Command     string `json:"command,omitempty"`      // PostgreSQL's command tag, such as INSERT 0 1; in small letters: error, portal suspended, empty query, function call
	Rows        int64  `json:"rows,omitempty"`         // that were returned or changed
	ResultsLost uint32 `json:"results_lost,omitempty"` // results of the session before this one that could not be recorded
}
