// Command escape is a hostile job: it runs alone in a stranger's container, tries to get out of it or to take more than it
// was given, and says on its standard output what came of every attempt. It is built for the tests alone.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Attempt is one line of the output.
type Attempt struct {
	Name string `json:"attempt"`
	What string `json:"what"` // what happened
	Held bool   `json:"held"` // the container gave nothing
}

// say reports one attempt.
func say(name string, held bool, format string, args ...any) {
	line, err := json.Marshal(Attempt{Name: name, What: fmt.Sprintf(format, args...), Held: held})
	if err != nil {
		panic(err)
	}
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		os.Exit(3)
	}
}

// refused reports an attempt that must end in an error.
func refused(name string, err error) {
	if err == nil {
		say(name, false, "it worked")
		return
	}
	say(name, true, "%v", err)
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "escape: no attempt named")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "tour": // everything that leaves the container as it was
		watched()
		users()
		capabilities()
		limits()
		child("descriptors")
		mounts()
		devices()
		processes()
		kernel()
		procAndSys()
		network()
		others()
	case "fork":
		forkBomb()
	case "memory":
		memory(os.Args[2])
	case "touch": // the child of memory
		touch(os.Args[2])
	case "cpu":
		spin()
	case "descriptors":
		descriptors()
	case "disk":
		disk()
	case "flood":
		flood()
	case "stay": // ignores every request to end
		stay()
	case "inside": // a file of the host must not be there
		_, err := os.Stat(os.Args[2])
		refused("reach "+os.Args[2]+" from where the image begins", err)
	case "outputs":
		outputs(os.Args[2])
	case "swap": // the child of outputs
		swap()
	case "effective": // the user that a set-user-ID copy of this program got, and its capabilities
		fmt.Println(os.Geteuid(), status("CapEff"))
	case "int80":
		oldCalls()
	case "inodes": // the child of disk
		inodes(os.Args[2])
	case "crash":
		crash()
	default:
		fmt.Fprintf(os.Stderr, "escape: no attempt %q\n", os.Args[1])
		os.Exit(2)
	}
}

// child runs one attempt in a process of its own, which says what came of it.
func child(attempt string) {
	c := exec.Command("/proc/self/exe", attempt)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		say(attempt+" in a child", false, "%v", err)
	}
}

// host gives what the test told of the host: names of things that this program must not reach.
func host(name string) string { return os.Getenv("ESCAPE_" + name) }

// status gives one field of this process's status.
func status(field string) string {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
