package consumer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/oklog/ulid/v2"

	"sluice/internal/block"
	"sluice/internal/families"
	"sluice/schema"
)

// sealedFile in a generation's scratch folder says that its blocks are complete. It is only a shortcut: without it, the
// log is replayed.
const sealedFile = "sealed.json"

// sealedState is the content of sealedFile.
type sealedState struct {
	TopicID string                        `json:"topic_id"`
	From    int64                         `json:"from"`
	To      int64                         `json:"to"`
	LogFrom int64                         `json:"log_from"`
	LogTime int64                         `json:"log_time"`
	Gaps    []schema.Gap                  `json:"gaps,omitempty"`
	Blocks  map[schema.Tenant][]ulid.ULID `json:"blocks"`
	// Metadata is what is not in the bucket yet: the log that brought it will not be read again.
	Metadata map[schema.Tenant]map[string]families.Family `json:"metadata,omitempty"`
}

// markSealed writes sealedFile, after all blocks.
func (p *partition) markSealed(g *generation) error {
	state := sealedState{
		TopicID: p.topicID, From: g.from, To: g.to, LogFrom: g.logFrom, LogTime: g.logTime, Gaps: g.gaps,
		Blocks: map[schema.Tenant][]ulid.ULID{}, Metadata: p.side.unsaved(),
	}
	for _, b := range g.localBlocks() {
		state.Blocks[b.meta.Sluice.Tenant] = append(state.Blocks[b.meta.Sluice.Tenant], b.meta.ULID)
	}
	raw, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode %s: %w", sealedFile, err)
	}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", sealedFile, err)
	}
	tmp := filepath.Join(g.dir, sealedFile+".tmp")
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", sealedFile, err)
	}
	if err := os.Rename(tmp, filepath.Join(g.dir, sealedFile)); err != nil {
		return fmt.Errorf("write %s: %w", sealedFile, err)
	}
	g.sealed = true
	return nil
}

// reload finds the generations that were sealed on this disk from the offset start on, one after the other. Their files
// are held against the hashes in their metas: a crash may have torn them.
func (p *partition) reload(start int64) ([]*generation, error) {
	var found []*generation
	for {
		g, err := p.reloadOne(start)
		if errors.Is(err, errNotSealed) {
			return found, nil
		}
		if err != nil {
			p.logger.Warn("a sealed generation on disk is of no use, replaying it", "from", start, "err", err)
			return found, nil
		}
		found = append(found, g)
		start = g.to
	}
}

var errNotSealed = errors.New("no sealed generation")

func (p *partition) reloadOne(from int64) (*generation, error) {
	g := p.newGeneration(from)
	raw, err := os.ReadFile(filepath.Join(g.dir, sealedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotSealed
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", sealedFile, err)
	}
	var state sealedState
	if err := json.Unmarshal(raw, &state); err != nil {
		return nil, fmt.Errorf("decode %s: %w", sealedFile, err)
	}
	if state.TopicID != p.topicID || state.From != from || state.To <= from {
		return nil, fmt.Errorf("%s is of offsets [%d, %d) of topic %s", sealedFile, state.From, state.To, state.TopicID)
	}
	g.to, g.logFrom, g.logTime, g.gaps, g.started, g.sealed = state.To, state.LogFrom, state.LogTime, state.Gaps, true, true
	g.stage.Store(stageShipping)
	for tenant, all := range state.Metadata {
		p.side.restore(tenant, all)
	}
	for tenant, ids := range state.Blocks {
		part := &tenantPart{}
		for _, id := range ids {
			dir := filepath.Join(g.dir, "blocks", string(tenant), id.String())
			meta, err := block.ReadLocal(dir)
			if err != nil {
				return nil, errors.Join(err, g.drop(true))
			}
			part.blocks = append(part.blocks, localBlock{dir: dir, meta: meta})
			found, err := block.LocalExemplars(dir)
			if err != nil {
				return nil, errors.Join(err, g.drop(true))
			}
			part.exemplars.AddAll(found, math.MaxInt)
		}
		opened, err := openBlocks(part.blocks)
		if err != nil {
			return nil, errors.Join(err, g.drop(true))
		}
		part.view = newView(opened.querier, opened.Close)
		g.tenants[tenant] = part
	}
	return g, nil
}

// name of a partition's scratch folder.
func partitionDir(scratch string, id int32) string {
	return filepath.Join(scratch, strconv.Itoa(int(id)))
}
