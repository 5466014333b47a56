package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const patience = 60 * time.Second // with one answer; a router that hangs is a failure, not a wait

// Plan is one measurement: what the clients ask for, how often, and how many at once.
type Plan struct {
	address     string
	model       string
	salt        string
	requests    int
	concurrency int
	promptBytes int
	events      int
}

// Result is what the clients saw. Times in microseconds; Failed counts answers that were not whole.
type Result struct {
	Requests    int     `json:"requests"`
	Failed      int     `json:"failed"`
	Failure     string  `json:"failure,omitempty"`
	Events      int     `json:"events"`
	Seconds     float64 `json:"seconds"`
	FirstByteUS Spread  `json:"first_byte_us"`
	EventUS     Spread  `json:"event_us"`
}

// Spread is the middle and the tail of a sample.
type Spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

type sample struct {
	requests, events    int
	firstByteUS, delays []float64
	failures            []error
}

func (p *Plan) register(flags *flag.FlagSet) {
	flags.StringVar(&p.address, "address", "", "host:port of the router")
	flags.StringVar(&p.model, "model", "bench", "model to ask for")
	flags.StringVar(&p.salt, "salt", "0", "makes the prompts of this run differ from those of all others")
	flags.IntVar(&p.requests, "requests", 1000, "requests in all")
	flags.IntVar(&p.concurrency, "concurrency", 16, "requests at once, each client on one kept-open connection")
	flags.IntVar(&p.promptBytes, "prompt-bytes", 1024, "size of a prompt")
	flags.IntVar(&p.events, "events", 0, "events of a streamed answer; 0 asks for one document")
}

func (p *Plan) run() Result {
	samples, left := make([]sample, p.concurrency), int64(p.requests)
	began := time.Now()
	var clients sync.WaitGroup
	for number := range samples {
		clients.Add(1)
		go func() {
			defer clients.Done()
			p.play(&samples[number], &left)
		}()
	}
	clients.Wait()
	return summarize(samples, time.Since(began))
}

// play is one client: it asks again and again on one connection, and opens another after a failure.
func (p *Plan) play(seen *sample, left *int64) {
	var conn net.Conn
	var reader *bufio.Reader
	for {
		number := atomic.AddInt64(left, -1)
		if number < 0 {
			break
		}
		var err error
		if conn == nil {
			if conn, err = net.Dial("tcp", p.address); err == nil {
				reader = bufio.NewReaderSize(conn, 4<<10)
			}
		}
		if err == nil {
			err = p.ask(conn, reader, number, seen)
		}
		if err != nil {
			seen.failures = append(seen.failures, err)
			if conn != nil {
				conn.Close()
				conn = nil
			}
		}
	}
	if conn != nil {
		conn.Close()
	}
}

func (p *Plan) ask(conn net.Conn, reader *bufio.Reader, number int64, seen *sample) error {
	request := p.build(number)
	began := time.Now()
	if err := conn.SetDeadline(began.Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	if _, err := reader.Peek(1); err != nil {
		return err
	}
	firstByte := time.Since(began)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return fmt.Errorf("HTTP %d: %s", response.StatusCode, text)
	}
	if p.events > 0 {
		err = p.follow(response.Body, seen)
	} else {
		err = drain(response.Body)
	}
	if err != nil {
		return err
	}
	seen.requests++
	seen.firstByteUS = append(seen.firstByteUS, float64(firstByte.Nanoseconds())/1e3)
	return nil
}

func drain(body io.Reader) error {
	text, err := io.ReadAll(body)
	if err == nil && !bytes.Contains(text, []byte(`"choices"`)) {
		return fmt.Errorf("not a completion: %.200s", text)
	}
	return err
}

// follow reads a stream to its end.
func (p *Plan) follow(body io.Reader, seen *sample) error {
	lines, isDone, events := bufio.NewReaderSize(body, 1<<10), false, 0
	for {
		line, err := lines.ReadSlice('\n')
		if at := bytes.Index(line, []byte(timeMark)); at >= 0 {
			events++
			seen.delays = append(seen.delays, delayUS(line[at+len(timeMark):]))
		}
		isDone = isDone || bytes.HasPrefix(line, []byte("data: [DONE]"))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	seen.events += events
	if !isDone || events != p.events {
		return fmt.Errorf("the stream ended after %d of %d events, [DONE] seen: %t", events, p.events, isDone)
	}
	return nil
}

func delayUS(rest []byte) float64 {
	end := bytes.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	sent, _ := strconv.ParseInt(string(rest[:max(end, 0)]), 10, 64)
	return float64(time.Now().UnixNano()-sent) / 1e3
}

// build makes one request. The first half of a prompt is one of eight that requests share, the rest is its own.
func (p *Plan) build(number int64) []byte {
	shared := fmt.Sprintf("system prompt %d. ", number%8)
	own := fmt.Sprintf("question %s-%d. ", p.salt, number)
	prompt := fill(shared, p.promptBytes/2) + fill(own, p.promptBytes-p.promptBytes/2)
	tokens := p.events
	if tokens == 0 {
		tokens = 20
	}
	body := fmt.Sprintf(`{"model":"%s","messages":[{"role":"user","content":"%s"}],"max_tokens":%d,"stream":%t}`,
		p.model, prompt, tokens, p.events > 0)
	return []byte(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
		"Accept: */*\r\nAuthorization: Bearer bench\r\nUser-Agent: bench\r\nContent-Length: %d\r\n\r\n%s", p.address, len(body), body))
}

func fill(phrase string, size int) string {
	return strings.Repeat(phrase, size/len(phrase)+1)[:size]
}

func summarize(samples []sample, took time.Duration) Result {
	result := Result{Seconds: took.Seconds()}
	var firstBytes, delays []float64
	for _, one := range samples {
		result.Requests += one.requests
		result.Events += one.events
		result.Failed += len(one.failures)
		if len(one.failures) > 0 {
			result.Failure = one.failures[0].Error()
		}
		firstBytes = append(firstBytes, one.firstByteUS...)
		delays = append(delays, one.delays...)
	}
	result.FirstByteUS, result.EventUS = spread(firstBytes), spread(delays)
	return result
}

func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sort.Float64s(values)
	return Spread{P50: values[len(values)/2], P99: values[len(values)*99/100]}
}
