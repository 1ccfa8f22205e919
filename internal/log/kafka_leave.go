package log

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Leave implements Log. A static member does not leave when its client closes; this makes it leave.
func (k *Kafka) Leave(ctx context.Context, m Membership) error {
	resp, err := k.admin.LeaveGroup(ctx, kadm.LeaveGroup(m.Group).InstanceIDs(m.Instance))
	if err == nil {
		err = resp.Error()
	}
	if err != nil && !errors.Is(err, kerr.UnknownMemberID) {
		return fmt.Errorf("leave group %s: %w", m.Group, k.fault(err, right{"Read", "group", m.Group}))
	}
	return nil
}
