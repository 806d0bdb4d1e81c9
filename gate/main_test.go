package gate_test

import (
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
