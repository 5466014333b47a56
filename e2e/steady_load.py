"""Clients that ask a fleet all the time, and a record of how each request ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from demo.asking import Answer, ask
from demo.errors import DemoError


@dataclass
class Ledger:
    """Every request of a load, once: answered in full, or what the client was told instead."""

    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def note(self, answer: Answer, wanted_tokens: int) -> None:
        """A stream that ended well but short is a failure: something was lost without a word."""
        got = answer.usage.get("completion_tokens")
        if got == wanted_tokens:
            self.answers.append(answer)
        else:
            self.failures.append(f"{got} of {wanted_tokens} tokens")

    def __str__(self) -> str:
        return f"{len(self.answers)} answered, {len(self.failures)} failed, {self.remote_share():.0%} remote"

    def remote_share(self) -> float:
        """Share of the answers for which a prefill worker did the prompt."""
        return sum("prefill" in answer.served_by for answer in self.answers) / max(1, len(self.answers))


@contextmanager
def steady_load(url: str, model: str, clients: int, tokens: int = 8) -> Iterator[Ledger]:
    """`clients` threads ask one request after the other while the block runs; all have ended when it is left."""
    ledger, stop = Ledger(), threading.Event()

    def run(client: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                ledger.note(ask(url, model, f"client {client} asks for the {turn}th time " * 20, tokens), tokens)
            except DemoError as error:
                ledger.failures.append(str(error))

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        for thread in threads:
            thread.join()
