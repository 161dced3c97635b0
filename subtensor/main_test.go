package subtensor_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails where a client or a server leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
