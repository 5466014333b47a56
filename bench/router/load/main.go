// Command load measures a router: `load engines` plays the inference engines behind it, `load clients` its clients.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("say what to play: engines or clients"))
	}
	role, flags := os.Args[1], flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	switch role {
	case "engines":
		count := flags.Int("count", 4, "engines to play, each on a port of its own")
		gap := flags.Duration("gap", 10*time.Millisecond, "time between two events of a stream")
		_ = flags.Parse(os.Args[2:])
		fail(serveEngines(*count, *gap))
	case "clients":
		var plan Plan
		plan.register(flags)
		_ = flags.Parse(os.Args[2:])
		_ = json.NewEncoder(os.Stdout).Encode(plan.run())
	default:
		fail(fmt.Errorf("%q is neither engines nor clients", role))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}
