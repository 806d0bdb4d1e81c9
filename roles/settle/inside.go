package settle

import "errors"

// errInside is a session of somebody else that is inside code of the role's.
var errInside = errors.New("a session is inside code that the role made")
