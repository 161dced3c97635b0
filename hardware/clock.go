package hardware

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Uptime is the time since the machine was started, with the time that it slept; setting the clock does not move it.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("the kernel has no clock since boot: %v", err)) // Linux has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// FreeDisk gives the bytes that this process may still write on the file system of a path.
func FreeDisk(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("read disk of %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
