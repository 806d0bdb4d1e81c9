// Package strangers bounds what people can do who have proved nothing yet: how fast they guess, how many connections they
// hold, how much they write into the trail, and what of their words gets there.
package strangers
