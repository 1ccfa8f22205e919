package compactor

import "sluice/internal/processes"

// looked is what the last look over all tenants came to.
type looked struct {
	at       int64 // ms; 0 = there was none yet
	due      int
	bytes    int64 // of the inputs of those
	waiting  int   // of those due, put off because they failed
	tooLarge int
}

// Status is what the compactor does, for those who look at the whole cluster.
func (c *Compactor) Status() *processes.Compactor {
	plan := c.cfg.plan()
	s := &processes.Compactor{
		Quarantined: c.notes.aside.Count(c.now()),
		Done:        int64(processes.Total(c.metrics.jobs.WithLabelValues(resultDone))),
		Failed:      int64(processes.Total(c.metrics.jobs.WithLabelValues(resultFailed))),
		Settle:      plan.Settle, Ranges: plan.Ranges, MaxBytes: plan.MaxJobBytes, MaxSeries: plan.MaxJobSeries,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.JobsDue, s.DueBytes, s.Waiting, s.TooLarge, s.Looked = c.looked.due, c.looked.bytes, c.looked.waiting, c.looked.tooLarge, c.looked.at
	for _, j := range c.running {
		s.Running = append(s.Running, j)
	}
	return s
}

// begins notes that a merge is under way.
func (c *Compactor) begins(j tenantJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[j.id] = processes.Job{
		Tenant: string(j.tenant), Start: j.Start, End: j.End, Blocks: len(j.Blocks), Bytes: j.bytes(), Since: c.now().UnixMilli(),
	}
}

// ends notes that it is no more; merged says that it need not be done any more. The caller holds mu.
func (c *Compactor) ends(j tenantJob, merged bool) {
	delete(c.running, j.id)
	if merged {
		c.looked.due--
		c.looked.bytes -= j.bytes()
	}
}

func (j *tenantJob) bytes() (sum int64) {
	for _, e := range j.Blocks {
		sum += e.Bytes
	}
	return sum
}
