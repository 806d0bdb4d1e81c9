package descriptors_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// The test runs in a process of its own, since the limit is the process's.
func TestMain(m *testing.M) {
	if os.Getenv("HOURGATE_DESCRIPTORS") != "" {
		if err := lowLimit(); err != nil {
			fmt.Println(err)
		}
		return
	}
	m.Run()
}

func TestBorrow(t *testing.T) {
	cmd := exec.Command("sh", "-c", `ulimit -Sn 40 && ulimit -Hn 64 && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "HOURGATE_DESCRIPTORS=1")
	out, err := cmd.CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil || text != "" && text != "PASS" {
		t.Errorf("%v\n%s", err, text)
	}
}

// lowLimit opens all that can be opened, and then what a reserve is for.
func lowLimit() error {
	if got := descriptors.Limit(); got < 63 {
		return fmt.Errorf("the limit is %d, want that of the hard one, or one less as Go leaves it", got)
	}
	descriptors.Hold()
	var files []*os.File
	open := func() error {
		f, err := os.Open(os.DevNull)
		if err == nil {
			files = append(files, f)
		}
		return err
	}
	var full error
	for full == nil {
		full = open()
	}
	if !descriptors.Exhausted(full) {
		return fmt.Errorf("got %w, want it to be for want of descriptors", full)
	}
	if _, err := net.Dial("tcp", "localhost:1"); !descriptors.Exhausted(err) {
		return fmt.Errorf("a look-up failed with %w, want it to be for want of descriptors", err)
	}
	giveBack := descriptors.Borrow()
	for range 6 {
		if err := open(); err != nil {
			return fmt.Errorf("after borrowing: %w", err)
		}
	}
	giveBack()
	if err := open(); err == nil {
		return errors.New("giving back gave room to everybody")
	}
	// Six files are open that were not: the reserve lacks them, and has them back when they are closed.
	for range 6 {
		files[len(files)-1].Close()
		files = files[:len(files)-1]
	}
	descriptors.Borrow()()
	for opened := 0; opened < 6; opened++ {
		if err := open(); err == nil {
			return errors.New("the reserve was not filled again")
		}
	}
	if !errors.Is(open(), syscall.EMFILE) {
		return errors.New("want no room")
	}
	return nil
}

func TestConnections(t *testing.T) {
	for _, test := range []struct{ limit, integrations, want int }{
		{1024, 1, 476},
		{65536, 10, 32696},
		{256, 1, 92},
		{64, 1, 8},
		{1024, 5000, 128},
		{0, 1, 0},
	} {
		if got := descriptors.Connections(test.limit, test.integrations); got != test.want {
			t.Errorf("limit %d, %d integrations: got %d connections, want %d", test.limit, test.integrations, got, test.want)
		}
	}
}
