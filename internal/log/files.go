package log

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Names inside of the embedded log's directory; a partition is <topic>/<number>/.
const (
	lockFile    = "lock"
	topicsFile  = "topics.json"
	commitsFile = "commits.json"
	tempSuffix  = ".tmp"
)

// topicsJSON is topics.json: which topics there are. It is written when the log is created and when a later version
// adds a topic.
type topicsJSON struct {
	Version int                  `json:"version"` // 1
	Topics  map[string]topicJSON `json:"topics"`
}

type topicJSON struct {
	ID         string `json:"id"` // random: another one when the directory is deleted and made again
	Partitions int32  `json:"partitions"`
}

// commitsJSON is commits.json: group → topic → partition → offset.
type commitsJSON struct {
	Version int                                   `json:"version"` // 1
	Groups  map[string]map[string]map[int32]int64 `json:"groups"`
}

const filesVersion = 1

// readJSON fills v from a file; a file that is not there leaves v alone and returns false.
func readJSON(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("parse %s: %w", path, err)
	}
	return true, nil
}

// writeJSON replaces a file so that after a crash at any point it is the old one or the new one, whole: write another
// file, sync it, rename it, sync the directory.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	temp := path + tempSuffix
	f, err := os.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// newTopicID returns a random UUID.
func newTopicID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails, by its documentation
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
