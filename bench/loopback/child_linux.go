package loopback

import "syscall"

// childAttributes: a Ctrl-C in the terminal reaches us and not the children, which are stopped in order; and none of them
// outlives us, even if we are killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
