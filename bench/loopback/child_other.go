//go:build !linux

package loopback

import "syscall"

// childAttributes: where nothing ties a child to its parent, a Ctrl-C reaches all of them at once.
func childAttributes() *syscall.SysProcAttr { return nil }
