// Package writes is how every process knows what is written for whom. In go, at the producers, how many samples each tenant
// has sent and what of them was refused; a Teller says in the control topic what has changed. Out come, at the readers, a Table of that
// topic: a tenant's samples per second over all producers, and why what was refused. It decides nothing about a sample,
// and losing all of it costs a figure on a page.
//
// # What is in the topic
//
// Every producer speaks under keys of its own; who reads adds them up.
//
//	writes/beat//<instance>              beat: it is there, every ten seconds
//	writes/rates/<tenant>/<instance>     what a tenant sends per second; no value = nothing
//	writes/rejects/<tenant>/<instance>   what was refused, by reason, since the process started
//
// Values are JSON. A rate is told again when it has changed notably: by half, or from and to zero, within ten seconds, by a
// tenth within a minute. So is a new reason within ten seconds, and that a known one has come again within a minute. A round
// has at most 1,000 records, and a producer speaks of at most 5,000 tenants.
//
// A producer that stops takes back everything. One that dies is not counted any more after a minute without a beat; what was refused
// there is shown for an hour more, and then the others remove its keys.
package writes
