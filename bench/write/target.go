package write

import "sluice/bench/peers"

// Targets are Sluice and its peers, those that are installed here.
func Targets(sluice string, version, tenants int) []peers.Target {
	ours := peers.Sluice(sluice)
	if version == ProtocolOTLP {
		ours.Push = "/otlp/v1/metrics"
	}
	all := []peers.Target{ours}
	if tenants == 0 { // the peers do not know any
		all = append(all, others(version)...)
	}
	return peers.Installed(all)
}

// others are those that know the protocol. Debian's are from before OTLP and remote write 2.0: for these there is a newer Prometheus.
func others(version int) []peers.Target {
	newer := peers.Prometheus3()
	switch version {
	case 1:
		return []peers.Target{peers.Prometheus(), peers.VictoriaMetrics()}
	case ProtocolOTLP:
		newer.Push = "/api/v1/otlp/v1/metrics"
	}
	return []peers.Target{newer}
}
