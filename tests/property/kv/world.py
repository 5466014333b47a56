"""One prefill rank and one decode rank, joined by a network that tests may break. No sockets, no clock.

It performs what both state machines order, keeps both promises that they rely on (every StartSend and every Receive is
answered once), and records what must never happen.
"""

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any

from tandem_worker.kv import provider as p
from tandem_worker.kv import pull_actions as d
from tandem_worker.kv.circuit import Circuit
from tandem_worker.kv.keys import KeyRing
from tandem_worker.kv.layout import HeadSlice
from tandem_worker.kv.leases import LeaseTable
from tandem_worker.kv.messages import Engine, GroupShape, Message, decode_message
from tandem_worker.kv.params import issue_ticket
from tandem_worker.kv.puller import Puller, PullerLimits

KEYS = KeyRing("k1", b"0123456789abcdef")
LEASE_S = 30.0
GARBAGE = "garbage"


def build_engine(engine_id: str, **changes: Any) -> Engine:
    fields: dict[str, Any] = {
        "engine_id": engine_id,
        "fleet": "ns/fleet",
        "kv_revision": "r1",
        "engine_version": "0.32.0",
        "model": "m",
        "dtype": "bfloat16",
        "cache_dtype": "auto",
        "layout": "LBHNC",
        "block_size": 16,
        "groups": [GroupShape(layers=["l0"], page_tokens=16, head_bytes_per_token=4, kv_heads=2)],
        "tp_size": 1,
        "tp_rank": 0,
        "transport": "tcp",
        "chunk_bytes": 1 << 20,
    }
    return Engine(**fields | changes)


def build_ticket(engine_id: str, request_id: str, blocks: list[int], **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "remote_engine_id": engine_id,
        "remote_request_id": request_id,
        "remote_block_ids": [blocks],
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
        "tp_size": 1,
        "remote_num_tokens": 16 * len(blocks),
        "prompt_digest": "0" * 64,
        "expiry": 0,
        "fleet": "ns/fleet",
    }
    return issue_ticket(fields | changes, KEYS).model_dump()


def build_job(key: str, ticket: dict[str, Any], local: list[int]) -> d.Job:
    remote = tuple(map(tuple, ticket["remote_block_ids"]))
    heads = (HeadSlice(0, 2),)
    return d.Job(key, ticket, remote, heads, (tuple(local),), heads)


def build_provider(engine: Engine) -> p.Provider:
    leases = LeaseTable(LEASE_S, tombstone_s=60)
    return p.Provider(engine, KEYS, leases, p.ProviderLimits(4, 3, 2, 16))


def build_puller(engine: Engine, peer_engine_id: str) -> Puller:
    limits = PullerLimits(4, 4, 60, 1, 3, 60, LEASE_S)
    return Puller(engine, peer_engine_id, KEYS, limits, Circuit(3, 10))


@dataclass
class Wire:
    """One connection: both directions of its control channel, and the transfer on its data path."""

    connection: int
    to_prefill: deque[Message] = field(default_factory=deque)
    to_decode: deque[Message] = field(default_factory=deque)
    prefill_sees_it: bool = True
    decode_sees_it: bool = True
    is_black_hole: bool = False
    is_attaching: bool = False
    sending: p.StartSend | None = None
    receiving: d.Receive | None = None
    moved: int = 0
    is_sent: bool = False
    send_fails: bool = False
    receive_fails: bool = False


class World:
    """Rules call the `do_*` methods; `violations` must stay empty."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.starts = 1
        self.provider = build_provider(build_engine("e1"))
        self.puller = build_puller(build_engine("d1"), "e1")
        self.wires: dict[int, Wire] = {}
        self.dialing: deque[int] = deque()
        self.prefill_memory: dict[int, str] = {}
        self.decode_memory: dict[int, str] = {}
        self.leased: dict[str, list[int]] = {}
        self.freed: Counter[str] = Counter()
        self.submitted: dict[str, d.Job] = {}
        self.ends: dict[str, d.Finished] = {}
        self.violations: list[str] = []
        self._next_block = 0

    # What the engines do

    def do_prefill(self, request_id: str, blocks: list[int]) -> None:
        for block in blocks:
            self.prefill_memory[block] = f"{request_id}:{blocks.index(block)}"
        self.leased[request_id] = blocks
        self.on_prefill(self.provider.on_lease(request_id, [blocks], self.now_s))

    def do_submit(self, key: str, ticket: dict[str, Any], forged: tuple[int, ...] = ()) -> None:
        """`forged`: blocks to ask for instead of the ticket's."""
        count = len(ticket["remote_block_ids"][0])
        local = list(range(self._next_block, self._next_block + count))
        self._next_block += count
        job = build_job(key, ticket, local)
        self.submitted[key] = replace(job, remote_blocks=(forged,)) if forged else job
        self.on_decode(self.puller.submit(self.submitted[key], self.now_s))

    def do_cancel(self, key: str) -> None:
        self.on_decode(self.puller.cancel(key, self.now_s))

    def do_restart_prefill(self) -> None:
        """Killed and started again: other memory, other leases, another engine id."""
        self.starts += 1
        self.provider = build_provider(build_engine(f"e{self.starts}"))
        self.prefill_memory.clear()
        self.leased.clear()
        self.freed.clear()
        for wire in self.wires.values():
            wire.prefill_sees_it, wire.sending, wire.receive_fails = False, None, True
            wire.to_prefill.clear()
            wire.is_attaching = False

    def do_wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.on_prefill(self.provider.on_tick(self.now_s))
        self.on_decode(self.puller.on_tick(self.now_s))

    # What the network does

    def do_connect(self, *, succeeds: bool) -> None:
        link = self.dialing.popleft()
        if not succeeds:
            self.on_decode(self.puller.on_lost(link, self.now_s))
            return
        self.wires[link] = Wire(link * 100 + self.starts)
        self.on_decode(self.puller.on_connected(link, f"{link:032x}"))
        wire = self.wires[link]
        endpoint = {"token": str(link)}
        self.on_prefill(self.provider.on_connect(wire.connection, f"{link:032x}", endpoint, self.now_s))

    def do_deliver(self, link: int, *, to_prefill: bool) -> None:
        wire = self.wires[link]
        queue = wire.to_prefill if to_prefill else wire.to_decode
        if not queue or wire.is_black_hole:
            return
        message = decode_message(queue.popleft().model_dump_json().encode())
        if to_prefill:  # also after a close: bytes that were read before it may be handed over after it
            self.on_prefill(self.provider.on_message(wire.connection, message, self.now_s))
        else:
            self.on_decode(self.puller.on_message(link, message, self.now_s))

    def do_attach(self, link: int) -> None:
        wire = self.wires[link]
        if wire.is_attaching and wire.prefill_sees_it and not wire.is_black_hole:
            wire.is_attaching = False
            self.on_prefill(self.provider.on_attached(wire.connection))

    def do_move_chunk(self, link: int) -> None:
        """One block goes over the data path, or an operation that was stopped comes back."""
        wire = self.wires[link]
        if wire.send_fails and wire.sending:
            self._end_send(wire, "aborted")
        elif wire.receive_fails and wire.receiving:
            self._end_receive(link, wire, "peer_eof")
        elif wire.sending and wire.is_sent:
            self._end_send(wire, None)
        elif wire.sending and wire.receiving and not wire.is_black_hole:
            self._copy_block(link, wire)

    def do_fail_data(self, link: int) -> None:
        """The data connection breaks, or a chunk's deadline passes."""
        self.wires[link].send_fails = self.wires[link].receive_fails = True

    def do_lose(self, link: int) -> None:
        """Both ends of the control connection see it end."""
        wire = self.wires[link]
        if wire.decode_sees_it:
            wire.decode_sees_it = False
            self.on_decode(self.puller.on_lost(link, self.now_s))
        if wire.prefill_sees_it:
            wire.prefill_sees_it = False
            self.on_prefill(self.provider.on_close(wire.connection))

    def do_black_hole(self, link: int) -> None:
        self.wires[link].is_black_hole = True

    def do_settle(self, seconds: float = 240) -> None:
        """Let everything happen that still can, long enough for every deadline to pass."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            while self.dialing:
                self.do_connect(succeeds=True)
            for link in list(self.wires):
                self._settle_wire(link)
            self.do_wait(0.5)

    def _settle_wire(self, link: int) -> None:
        wire = self.wires[link]
        for _ in range(20):
            self.do_deliver(link, to_prefill=True)
            self.do_deliver(link, to_prefill=False)
            self.do_attach(link)
            self.do_move_chunk(link)
        if wire.is_black_hole:  # a chunk's deadline is the transport's; all others are the session's own
            self.do_fail_data(link)
        elif not (wire.prefill_sees_it and wire.decode_sees_it):
            self.do_lose(link)

    # What the shells do

    def on_prefill(self, actions: list[p.ProviderAction]) -> None:
        for action in actions:
            match action:
                case p.Send(connection, message):
                    self._wire_of(connection).to_decode.append(message)
                case p.OpenData(connection, _):
                    self._wire_of(connection).is_attaching = True
                case p.StartSend(connection):
                    wire = self._wire_of(connection)
                    assert wire.sending is None
                    wire.sending = action
                case p.StopSend(connection):
                    self._wire_of(connection).send_fails = True
                case p.Close(connection):
                    self._close_by_prefill(self._wire_of(connection))
                case p.Freed(request_ids):
                    for request_id in request_ids:
                        self._free(request_id)

    def on_decode(self, actions: list[d.PullerAction]) -> None:
        for action in actions:
            match action:
                case d.Connect(link):
                    self.dialing.append(link)
                case d.Send(link, message):
                    self.wires[link].to_prefill.append(message)
                case d.Receive(link):
                    wire = self.wires[link]
                    assert wire.receiving is None
                    wire.receiving, wire.moved = action, 0
                case d.StopReceive(link):
                    self.wires[link].receive_fails = True
                case d.Disconnect(link):
                    self._close_by_decode(link)
                case d.Finished():
                    self._end_job(action)

    def _wire_of(self, connection: int) -> Wire:
        return next(wire for wire in self.wires.values() if wire.connection == connection)

    def _close_by_prefill(self, wire: Wire) -> None:
        wire.prefill_sees_it = False
        wire.send_fails = wire.receive_fails = True

    def _close_by_decode(self, link: int) -> None:
        if wire := self.wires.get(link):
            wire.decode_sees_it = False
            wire.send_fails = wire.receive_fails = True

    def _copy_block(self, link: int, wire: Wire) -> None:
        assert wire.sending is not None
        assert wire.receiving is not None
        if wire.sending.transfer != wire.receiving.transfer:
            self.violations.append("the two ends move different transfers")
        theirs, ours = wire.sending.blocks[0], wire.receiving.job.local_blocks[0]
        if wire.moved < len(theirs):
            self._write(wire.receiving.job.key, ours[wire.moved], self.prefill_memory.get(theirs[wire.moved], GARBAGE))
            wire.moved += 1
        if wire.moved == len(theirs):
            wire.is_sent = True
            if wire.sending.transfer % 2:  # else the receiver is told first, and may ask again before the sender knows
                self._end_send(wire, None)
            self._end_receive(link, wire, None)

    def _write(self, key: str, block: int, content: str) -> None:
        if key in self.ends:
            self.violations.append(f"{key} was written to after it had ended")
        self.decode_memory[block] = content

    def _end_send(self, wire: Wire, fault: str | None) -> None:
        assert wire.sending is not None
        order, wire.sending, wire.is_sent = wire.sending, None, False
        self.on_prefill(self.provider.on_sent(wire.connection, order.transfer, fault, self.now_s))

    def _end_receive(self, link: int, wire: Wire, fault: str | None) -> None:
        assert wire.receiving is not None
        order, wire.receiving = wire.receiving, None
        self.on_decode(self.puller.on_received(link, order.transfer, wire.moved, fault, self.now_s))

    def _free(self, request_id: str) -> None:
        self.freed[request_id] += 1
        if request_id not in self.leased:
            self.violations.append(f"{request_id} was freed but never leased")
        for wire in self.wires.values():
            if wire.sending and set(wire.sending.blocks[0]) & set(self.leased[request_id]):
                self.violations.append(f"{request_id} was freed while it was being read")
        for block in self.leased[request_id]:
            self.prefill_memory[block] = GARBAGE

    def _end_job(self, end: d.Finished) -> None:
        key = end.job.key
        if key in self.ends:
            self.violations.append(f"{key} ended twice")
        self.ends[key] = end
        local = end.job.local_blocks[0]
        came = local if end.fault is None else local[: end.chunks]
        request_id = end.job.ticket["remote_request_id"]
        for position, block in enumerate(came):
            if self.decode_memory.get(block) != f"{request_id}:{position}":
                self.violations.append(f"{key}: block {position} holds {self.decode_memory.get(block)}")
