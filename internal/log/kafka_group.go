package log

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	defaultSessionTimeout = 45 * time.Second

	// leaveTimeout is how long Join's end may wait for a rebalance that is under way.
	leaveTimeout = 2 * time.Second
)

// Join implements Log by the classic group protocol, cooperative-sticky, as a static member. The client is a member only:
// it fetches nothing, and what is read and committed is up to others.
func (k *Kafka) Join(ctx context.Context, m Membership, topic string, changed func(partitions []int32)) error {
	if m.Group == "" || m.Instance == "" {
		return fmt.Errorf("join group %q as %q: both need a name", m.Group, m.Instance)
	}
	if m.SessionTimeout == 0 {
		m.SessionTimeout = defaultSessionTimeout
	}
	if err := k.known(ctx, topic, 0); err != nil {
		return fmt.Errorf("join group %s: %w", m.Group, err)
	}
	s := &share{topic: topic, changed: changed, have: map[int32]bool{}}
	// Not ours: Close needs the client's own context to say farewell, and may not wait for it without bound.
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	opts := append(k.cfg.clientOptions(), k.cfg.memberOptions(m, topic)...)
	client, err := kgo.NewClient(append(opts,
		kgo.WithContext(life),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, in map[string][]int32) { s.assigned(in[topic]) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, in map[string][]int32) { s.revoked(in[topic]) }),
		kgo.OnPartitionsLost(func(context.Context, *kgo.Client, map[string][]int32) { s.lose() }),
	)...)
	if err != nil {
		return fmt.Errorf("join group %s: %w", m.Group, err)
	}
	client.PauseFetchTopics(topic)
	err = k.attend(ctx, client, m, topic)
	s.end() // Close takes all partitions from us, which is no change of their owner
	late := time.AfterFunc(leaveTimeout, kill)
	defer late.Stop()
	client.Close()
	return err
}

// attend returns when ctx or the log ends, or when the membership has an error that does not go away by itself.
func (k *Kafka) attend(ctx context.Context, client *kgo.Client, m Membership, topic string) error {
	poll, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-k.done:
			cancel()
		case <-poll.Done():
		}
	})
	for {
		// The topic is paused: what comes are errors.
		fetches := client.PollFetches(poll)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case poll.Err() != nil:
			return ErrClosed
		}
		var fatal error
		fetches.EachError(func(_ string, _ int32, err error) {
			switch {
			case fatal != nil:
			case errors.Is(err, kerr.FencedInstanceID):
				fatal = fmt.Errorf("join group %s as %s: %w", m.Group, m.Instance, ErrReplaced)
			case passes(err):
				k.logger.Warn("not in the group for now, keeping what was assigned", "group", m.Group, "instance", m.Instance, "err", err)
			default:
				fatal = fmt.Errorf("join group %s as %s: %w", m.Group, m.Instance, k.fault(err, read(topic), right{"Read", "group", m.Group}))
			}
		})
		if fatal != nil {
			return fatal
		}
	}
}

// passes reports whether joining again, which the client does, may help.
func passes(err error) bool {
	var broker *kerr.Error
	if !errors.As(err, &broker) { // no broker, or no connection
		return true
	}
	// The session has ended, because we were silent for too long, or the brokers have forgotten the group.
	return broker.Retriable || errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration)
}

// share is what a group has assigned to a member.
type share struct {
	topic   string
	changed func([]int32)

	mu    sync.Mutex // guards the rest; the client calls from goroutines of its own
	have  map[int32]bool
	lost  bool    // have is not ours any more, but nothing new has been assigned
	told  []int32 // what changed was last called with; nil before the first time
	ended bool
}

func (s *share) assigned(partitions []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		clear(s.have)
		s.lost = false
	}
	for _, p := range partitions {
		s.have[p] = true
	}
	s.tell()
}

func (s *share) revoked(partitions []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		delete(s.have, p)
	}
	s.tell()
}

// lose: we are cut off, or were taken for dead. Serving on is harmless, and may be all there is; what is assigned next is
// all that is ours.
func (s *share) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
}

func (s *share) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// tell calls changed if there is something new to say. The caller has the lock.
func (s *share) tell() {
	all := make([]int32, 0, len(s.have))
	for p := range s.have {
		all = append(all, p)
	}
	slices.Sort(all)
	if s.ended || s.told != nil && slices.Equal(all, s.told) {
		return
	}
	s.told = all
	s.changed(slices.Clone(all))
}
