module tandem.dev/bench/router

go 1.22
