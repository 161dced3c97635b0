package subtensor_test

import (
	"testing"

	"basilica/internal/provoke"
)

func TestMain(m *testing.M) { provoke.NoLeaks(m) }
