package log

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
)

// defaultPartitions is how many partitions of samples a new log gets if nobody says how many.
const defaultPartitions = 4

// openTopics reads topics.json, and writes it if topics or partitions are missing from it: last, so that what is in it has
// its directories.
func (e *Embedded) openTopics() (*topicsJSON, error) {
	path := filepath.Join(e.cfg.Dir, topicsFile)
	stored := &topicsJSON{Version: filesVersion}
	found, err := readJSON(path, stored)
	if err != nil {
		return nil, err
	}
	if stored.Version > filesVersion {
		return nil, fmt.Errorf("%s is of version %d, written by a newer Sluice", topicsFile, stored.Version)
	}
	if e.cfg.ReadOnly {
		if !found {
			return nil, fmt.Errorf("no log here: %s: %w", path, os.ErrNotExist)
		}
		return stored, nil
	}
	for name, t := range stored.Topics {
		for i := range t.Partitions {
			if _, err := os.Stat(partitionDir(e.cfg.Dir, name, i)); err != nil {
				return nil, fmt.Errorf("a partition that %s names is gone; restore it, or remove the whole log: %w", topicsFile, err)
			}
		}
	}
	if stored.Topics == nil {
		stored.Topics = map[string]topicJSON{}
	}
	added := false
	for name, n := range map[string]int32{TopicSamples: e.cfg.Partitions, TopicBlocks: 1, TopicControl: 1, TopicDeadLetter: 1} {
		t, known := stored.Topics[name]
		switch {
		case known && (n == 0 || n == t.Partitions):
			continue
		case known && n < t.Partitions: // there are samples in them, and series that belong to them
			e.logger.Warn("a log never loses partitions: it keeps what it has", "topic", name, "partitions", t.Partitions, "configured", n)
			continue
		case known:
			e.logger.Info("the log gets more partitions", "topic", name, "partitions", n, "before", t.Partitions)
		default:
			t.ID = newTopicID()
		}
		n = cmp.Or(n, defaultPartitions)
		if err := e.createPartitions(name, t.Partitions, n); err != nil {
			return nil, err
		}
		t.Partitions = n
		stored.Topics[name] = t
		added = true
	}
	if !added {
		return stored, nil
	}
	if err := syncDir(e.cfg.Dir); err != nil {
		return nil, err
	}
	return stored, writeJSON(path, stored)
}

// createPartitions makes the directories of the partitions [from, to) of a topic. Ones with segments in them belong to a
// log whose topics.json is lost: giving them a new ID would pass old records off as another topic's.
func (e *Embedded) createPartitions(name string, from, to int32) error {
	for i := from; i < to; i++ {
		dir := partitionDir(e.cfg.Dir, name, i)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		segs, err := listSegments(dir)
		if err != nil {
			return err
		}
		if len(segs) > 0 {
			return fmt.Errorf("%s holds a log but %s does not know it; restore that file, or remove the whole log", dir, topicsFile)
		}
	}
	return syncDir(filepath.Join(e.cfg.Dir, name))
}
