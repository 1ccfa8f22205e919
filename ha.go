package main

import (
	"sluice/internal/ha"
)

// buildHA makes what decides which replicas of HA pairs the producer takes samples from.
func (p *process) buildHA() error {
	tracker, err := ha.New(ha.Config{Instance: p.instance}, p.log, p.logger, p.reg)
	if err != nil {
		return err
	}
	p.producer.TrackHA(tracker)
	tracker.Register(p.mux)
	p.running = append(p.running, task{"HA tracker", tracker.Run})
	return nil
}
