//go:build faults

package faults

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// A clock is one that a process reads, by the kernel's number.
type clock int

const (
	wallClock  clock = 0 // CLOCK_REALTIME: what is set, and what a grant's end is written in
	awakeClock clock = 1 // CLOCK_MONOTONIC: what timers run by, and what stands still while the machine is suspended
)

// clocks are those of one process, which can be set without setting anybody else's. Go reads them through the vDSO, a page of
// code that the kernel lends to each process. The process gets a copy in which clock_gettime adds what we say.
type clocks struct {
	memory *os.File
	steps  int64 // where the process reads how many seconds to add to each clock
}

// vdsoSymbol is the function of the vDSO that Go calls.
const vdsoSymbol = "__vdso_clock_gettime"

// clockCode is clock_gettime(clock, time) by way of the kernel. Behind it are the seconds to add to clocks 0 and 1.
var clockCode = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228
	0x0f, 0x05, // syscall
	0x83, 0xff, 0x01, // cmp edi, 1
	0x77, 0x11, // ja to ret
	0x48, 0x63, 0xcf, // movsxd rcx, edi
	0x48, 0x8d, 0x15, 0x0a, 0x00, 0x00, 0x00, // lea rdx, [rip+10]: the seconds
	0x48, 0x8b, 0x14, 0xca, // mov rdx, [rdx+rcx*8]
	0x48, 0x01, 0x16, // add [rsi], rdx
	0xc3,       // ret
	0xcc, 0xcc, // up to 32
}

// bend makes the clocks of a process settable, or finds them so. The first time it stops the process for a moment.
func bend(process *os.Process) (*clocks, error) {
	if runtime.GOARCH != "amd64" {
		return nil, errors.New("clocks can be set on amd64 only")
	}
	start, size, err := vdso(process.Pid)
	if err != nil {
		return nil, err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", process.Pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	image := make([]byte, size)
	if _, err := memory.ReadAt(image, start); err != nil {
		return nil, fmt.Errorf("reading the vDSO: %w", err)
	}
	entry, err := symbol(image)
	if err != nil {
		return nil, err
	}
	if code, found := bent(image, entry); found {
		return &clocks{memory: memory, steps: start + code + int64(len(clockCode))}, nil
	}
	code := int64(len(bytes.TrimRight(image, "\x00"))+63) &^ 63
	steps := code + int64(len(clockCode))
	if steps+16 > size {
		return nil, fmt.Errorf("the vDSO has no room: %d bytes of %d are used", code, size)
	}
	if err := suspend(process); err != nil {
		return nil, err
	}
	defer func() { _ = process.Signal(syscall.SIGCONT) }()
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(code-entry-5)) // jmp, from behind it
	_, err = memory.WriteAt(clockCode, start+code)
	if err == nil {
		_, err = memory.WriteAt(jump, start+entry)
	}
	return &clocks{memory: memory, steps: start + steps}, err
}

// bent is where the code is that the entry of an image leads to, if that is ours.
func bent(image []byte, entry int64) (code int64, found bool) {
	if image[entry] != 0xe9 {
		return 0, false
	}
	code = entry + 5 + int64(int32(binary.LittleEndian.Uint32(image[entry+1:])))
	return code, code >= 0 && code < int64(len(image)) && bytes.HasPrefix(image[code:], clockCode)
}

// further puts a clock ahead by so much more than it is.
func (c *clocks) further(which clock, d time.Duration) error {
	step := make([]byte, 8)
	if _, err := c.memory.ReadAt(step, c.steps+8*int64(which)); err != nil {
		return err
	}
	return c.step(which, d+time.Duration(binary.LittleEndian.Uint64(step))*time.Second)
}

// step says by how much a clock is ahead of the machine's from now on: whole seconds.
func (c *clocks) step(which clock, d time.Duration) error {
	_, err := c.memory.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(d/time.Second)), c.steps+8*int64(which))
	return err
}

// vdso is where a process has the kernel's page.
func vdso(pid int) (start, size int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var end int64
		if strings.Contains(line, "[vdso]") {
			_, err = fmt.Sscanf(line, "%x-%x", &start, &end)
			return start, end - start, err
		}
	}
	return 0, 0, errors.New("the process has no vDSO")
}

func symbol(image []byte) (address int64, err error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := file.DynamicSymbols()
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == vdsoSymbol })
	if i < 0 {
		return 0, fmt.Errorf("the vDSO has no %s: %w", vdsoSymbol, err)
	}
	return int64(symbols[i].Value), nil
}

// suspend stops a process, and returns when none of its threads runs.
func suspend(process *os.Process) error {
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); !stopped(process.Pid); runtime.Gosched() {
		if time.Now().After(deadline) {
			return errors.New("the process does not stop")
		}
	}
	return nil
}

func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return !slices.ContainsFunc(threads, func(thread string) bool {
		stat, _ := os.ReadFile(thread)
		_, state, found := bytes.Cut(stat, []byte(") "))
		return found && !bytes.HasPrefix(state, []byte("T"))
	})
}

// setClock puts the gate's wall clock forward or back for as long as the fault lasts. With reload, the policy is read again
// meanwhile, by the wrong clock.
func setClock(r *rig, d time.Duration, reload bool) (mend func()) {
	gate, err := bend(r.process.Process)
	if err == nil {
		err = gate.step(wallClock, d)
	}
	if err != nil {
		r.t.Errorf("setting the gate's clock: %v", err)
		return nil
	}
	if reload {
		_ = r.process.Process.Signal(syscall.SIGHUP)
	}
	return func() {
		if err := gate.step(wallClock, 0); err != nil {
			r.t.Errorf("setting the gate's clock right: %v", err)
		}
	}
}

// suspendMachine stops the gate as the suspension of its machine does: the wall clock goes on, the timers' clock does not.
func suspendMachine(r *rig) (mend func()) {
	gate, err := bend(r.process.Process)
	if err == nil {
		err = suspend(r.process.Process)
	}
	if err != nil {
		r.t.Errorf("suspending the gate: %v", err)
		return nil
	}
	began := time.Now()
	return func() {
		if err := gate.further(awakeClock, -time.Since(began)); err != nil {
			r.t.Errorf("stopping the timers' clock: %v", err)
		}
		_ = r.process.Process.Signal(syscall.SIGCONT)
	}
}

// TestMain lets the test's own program be a process that says what time it is, once for each line that it gets.
func TestMain(m *testing.M) {
	if os.Getenv("HOURGATE_CLOCK") == "" {
		pgtest.Main(m)
		return
	}
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(time.Now().UnixNano(), time.Since(began).Nanoseconds())
	}
}

// Another process's clocks can be set, and each alone.
func TestBend(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "HOURGATE_CLOCK=1")
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	began, answers := time.Now(), bufio.NewReader(out)
	read := func() (wall, awake time.Duration) { // ahead of ours
		var at, since int64
		_, askErr := fmt.Fprintln(in)
		_, err := fmt.Fscanln(answers, &at, &since)
		if err := errors.Join(askErr, err); err != nil {
			t.Fatal(err)
		}
		return time.Unix(0, at).Sub(time.Now().Round(0)), time.Duration(since) - time.Since(began)
	}
	read()
	for _, want := range []struct{ wall, awake time.Duration }{{0, 0}, {time.Hour, 0}, {-time.Hour, time.Minute}, {0, 0}} {
		// Each time anew, as one fault after the other does it.
		clocks, err := bend(cmd.Process)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(clocks.step(wallClock, want.wall), clocks.step(awakeClock, 0),
			clocks.further(awakeClock, want.awake/2), clocks.further(awakeClock, want.awake/2))
		if err != nil {
			t.Fatal(err)
		}
		wall, awake := read()
		if (wall-want.wall).Abs() > 10*time.Second || (awake-want.awake).Abs() > 10*time.Second {
			t.Errorf("got clocks that are ahead by %v and %v, want %v and %v", wall, awake, want.wall, want.awake)
		}
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
