"""What a request and an event cost the router, in CPU microseconds of its process, and its memory.

    python bench/router/cost.py [--requests 5000] [--connections 16]

Engines are minimal mocks in a second process, the load generator runs in this one. Only the router's own CPU time is
read, so a busy machine changes the rate, and hardly the cost.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KV = {"do_remote_prefill": True, "remote_engine_id": "e", "remote_block_ids": [[1, 2, 3]], "remote_host": "127.0.0.1"}
EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" tok"}}]}\n\n'
LAST = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":250,"completion_tokens":200}}\n\ndata: [DONE]\n\n'
EVENTS = 200


class MockEngine(asyncio.Protocol):
    """Answers every POST at once: KV parameters, a stream, or one document."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) >= length:
            self.buffer = b""
            self.answer(body)

    def answer(self, body: bytes) -> None:
        if b'"do_remote_decode":true' in body:
            self.document({"choices": [], "usage": {"prompt_tokens": 250}, "kv_transfer_params": KV})
        elif b'"stream":true' in body or b'"stream": true' in body:
            asyncio.get_running_loop().create_task(self.stream())
        else:
            self.document({"choices": [{"message": {"content": "x" * 100}}], "usage": {"completion_tokens": 20}})

    def document(self, value: dict) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)

    async def stream(self) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(EVENTS):
            self.transport.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await asyncio.sleep(0.002)
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST))


async def serve_mocks(count: int) -> None:
    """Print the ports, then serve until killed."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(MockEngine, "127.0.0.1", 0) for _ in range(count)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    if b"content-length:" in head:
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
    else:
        await reader.readuntil(b"0\r\n\r\n")


async def load(port: int, model: str, count: int, connections: int, *, stream: bool) -> float:
    """Seconds that `count` requests took."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "%d " + "w" * 1000}], "stream": stream})
    left = iter(range(count))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            data = (body % number).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n"
            await one(reader, writer, head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        writer.close()

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return time.perf_counter() - began_s


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def fleets(ports: list[int]) -> dict:
    def worker(name: str, role: str, port: int) -> dict:
        return {"name": name, "role": role, "address": "127.0.0.1", "httpPort": port, "adminPort": None}

    split = [worker(f"w{n}", "prefill" if n < 2 else "decode", port) for n, port in enumerate(ports)]
    mixed = [worker(f"m{n}", "mixed", port) for n, port in enumerate(ports)]
    return {
        "fleets": [
            {"name": "split", "servedName": "split", "workers": split},
            {"name": "mixed", "servedName": "mixed", "workers": mixed},
        ]
    }


async def measure(pid: int, port: int, requests: int, connections: int) -> None:
    await load(port, "mixed", 500, connections, stream=False)  # warm up
    for model, stream, count in (
        ("mixed", False, requests),
        ("split", False, requests),
        ("mixed", True, max(50, requests // EVENTS * 4)),
    ):
        before_s = cpu_s(pid)
        took_s = await load(port, model, count, connections, stream=stream)
        spent_s = cpu_s(pid) - before_s
        unit, units = ("event", count * EVENTS) if stream else ("request", count)
        print(
            f"{model:6} {'stream' if stream else 'plain':6} {spent_s / units * 1e6:7.1f} us CPU per {unit}, "
            f"{units / took_s:8.0f} {unit}s/s, router {rss_mib(pid):.0f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--serve-mocks", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_mocks:
        asyncio.run(serve_mocks(options.serve_mocks))
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options.requests, options.connections)


def run(folder: Path, requests: int, connections: int) -> None:
    mocks = subprocess.Popen([sys.executable, __file__, "--serve-mocks", "4"], stdout=subprocess.PIPE)
    router = None
    try:
        assert mocks.stdout is not None
        (folder / "fleets.json").write_text(json.dumps(fleets(json.loads(mocks.stdout.readline()))))
        flags = ["--host", "127.0.0.1", "--port", "0", "--internal-port", "0", "--keys-dir", str(folder)]
        command = [sys.executable, "-m", "tandem_router", *flags, "--static", str(folder / "fleets.json")]
        router = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert router.stderr is not None
        port = int(json.loads(router.stderr.readline())["port"])
        time.sleep(0.5)
        asyncio.run(measure(router.pid, port, requests, connections))
    finally:
        for process in (router, mocks):
            if process is not None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
