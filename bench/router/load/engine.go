package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	jsonHead   = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
	streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
	usage      = `"usage":{"prompt_tokens":250,"completion_tokens":20,"total_tokens":270}`
	document   = `{"id":"c","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"An answer of some ten words, as short ones are."},` +
		`"finish_reason":"stop"}],` + usage + `%s}`
	kvParams = `,"kv_transfer_params":{"do_remote_prefill":true,"do_remote_decode":false,"remote_engine_id":"e",` +
		`"remote_block_ids":[1,2,3],"remote_host":"127.0.0.1","remote_port":5600}`
	eventForm = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"bench",` +
		`"choices":[{"index":0,"delta":{"content":"%s%d "},"finish_reason":null}]}` + "\n\n"
	lastEvent = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"bench",` +
		`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	usageEvent = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"bench","choices":[],` +
		usage + "}\n\n"
	doneEvent = "data: [DONE]\n\n"
	timeMark  = "sent@" // precedes the send time of an event, in ns, so that clients read its delay
)

// facts answers every GET: what routers ask a worker before they use it.
const facts = `{"status":"ok","is_ready":true,"model_path":"bench","served_model_name":"bench","model_id":"bench",` +
	`"tokenizer_path":"bench","is_generation":true,"max_running_requests":4096,"tp_size":1,"dp_size":1,` +
	`"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench","max_model_len":65536}]}`

func serveEngines(count int, gap time.Duration) error {
	ports := make([]int, count)
	for number := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		ports[number] = listener.Addr().(*net.TCPAddr).Port
		go accept(listener, gap)
	}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		return err
	}
	select {}
}

func accept(listener net.Listener, gap time.Duration) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go serve(conn, gap)
	}
}

func serve(conn net.Conn, gap time.Duration) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 8<<10)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil || answer(conn, request, body, gap) != nil {
			return
		}
	}
}

func answer(conn net.Conn, request *http.Request, body []byte, gap time.Duration) error {
	switch {
	case request.Method != http.MethodPost:
		return reply(conn, facts)
	case hasPair(body, `"do_remote_decode":`, "true"):
		return reply(conn, fmt.Sprintf(document, kvParams))
	case hasPair(body, `"stream":`, "true"):
		return stream(conn, body, gap)
	default:
		return reply(conn, fmt.Sprintf(document, ""))
	}
}

func reply(conn net.Conn, text string) error {
	_, err := fmt.Fprintf(conn, jsonHead, len(text), text)
	return err
}

func stream(conn net.Conn, body []byte, gap time.Duration) error {
	if _, err := io.WriteString(conn, streamHead); err != nil {
		return err
	}
	next := time.Now()
	for left := maxTokens(body); left > 0; left-- {
		if err := chunk(conn, fmt.Sprintf(eventForm, timeMark, time.Now().UnixNano())); err != nil {
			return err
		}
		next = next.Add(gap)
		time.Sleep(time.Until(next))
	}
	end := lastEvent
	if hasPair(body, `"include_usage":`, "true") {
		end += usageEvent
	}
	if err := chunk(conn, end+doneEvent); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "0\r\n\r\n")
	return err
}

func chunk(conn net.Conn, text string) error {
	_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(text), text)
	return err
}

// hasPair finds `key` followed by `value`, with or without a space, without the cost of parsing the whole body.
func hasPair(body []byte, key, value string) bool {
	at := bytes.Index(body, []byte(key))
	return at >= 0 && bytes.HasPrefix(bytes.TrimLeft(body[at+len(key):], " "), []byte(value))
}

// maxTokens reads the number of events to send; some routers rename the field.
func maxTokens(body []byte) int {
	for _, key := range []string{`"max_tokens":`, `"max_completion_tokens":`} {
		at := bytes.Index(body, []byte(key))
		if at < 0 {
			continue
		}
		digits := bytes.TrimLeft(body[at+len(key):], " ")
		end := bytes.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
		if count, err := strconv.Atoi(string(digits[:max(end, 0)])); err == nil {
			return count
		}
	}
	return 1
}
