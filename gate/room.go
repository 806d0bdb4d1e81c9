package gate

import "github.com/hourgate/hourgate/internal/descriptors"

// room is how many connections the limit on open files leaves for people.
func (c *Config) room() int {
	servers := len(c.Integrations)
	if len(c.Discovery) > 0 {
		servers += turns
	}
	return descriptors.Connections(descriptors.Limit(), servers)
}

// connections is how many there may be; at least one, so that somebody can be told that there is no room.
func (c *Config) connections() int {
	room := max(c.room(), 1)
	if c.Limits.Connections > 0 {
		return min(int(c.Limits.Connections), room)
	}
	return room
}

// room warns of a limit on open files that is lower than other limits lead to expect.
func (v *validation) room(c *Config) {
	limit, room := descriptors.Limit(), c.room()
	switch wanted := int(c.Limits.Connections); {
	case wanted > room:
		v.warn("limits.connections", "the limit on open files here is %d, which has room for %d connections; raise it where the gate runs (ulimit -n, LimitNOFILE=)", limit, room)
	case wanted == 0 && room < int(c.Limits.Unauthenticated):
		v.warn("limits", "the limit on open files here is %d, which has room for %d connections, half of them unauthenticated; raise it where the gate runs (ulimit -n, LimitNOFILE=)", limit, room)
	}
}
