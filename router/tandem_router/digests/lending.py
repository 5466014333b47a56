"""Slots of workers, owned in equal parts and lent from replica to replica for half a second at a time. Pure.

The sum of what all replicas may use never exceeds the whole, whatever is lost, late or repeated:

- A loan names the newest digest of the borrower that the lender had seen. The borrower counts its time from when it
  sent that digest, the lender from when it sent the loan, which is later: a loan ends for the borrower first.
- A lender that lends less than before holds the larger loan against itself until that has run out.
- A request that runs on a borrowed slot when the loan ends keeps it: the borrower tells what it uses, and the lender
  waits for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

LOAN_S = 0.5


@dataclass(slots=True)
class _Lent:
    """What one peer may have of one worker: (slots, end) of every loan that has not run out."""

    loans: list[tuple[int, float]] = field(default_factory=list)
    last: int = 0

    def add(self, count: int, end_s: float) -> None:
        self.loans.append((count, end_s))
        self.last = count

    def outstanding(self, now_s: float) -> int:
        self.loans = [loan for loan in self.loans if loan[1] > now_s]
        return max((count for count, _ in self.loans), default=0)


class Lending:
    """Loans of one replica, both ways. Times are of this replica's clock; workers and peers go by name."""

    def __init__(self) -> None:
        self._lent: dict[tuple[str, str], _Lent] = {}  # (worker, peer)
        self._used: dict[tuple[str, str], int] = {}  # (worker, peer) → slots used beyond the peer's own, as it told
        self._borrowed: dict[str, tuple[dict[str, int], float]] = {}  # peer → (worker → slots, end)

    def lend(self, peer: str, wanted: Mapping[str, int], idle: Mapping[str, int], now_s: float) -> dict[str, int]:
        """What `peer` gets of each worker: what it wants of what is idle here, net of what others hold.

        Args:
            idle: own slots that neither run a request nor are to be kept, by worker; may be negative.
        """
        granted: dict[str, int] = {}
        for worker, count in wanted.items():
            others = self.lent_out(worker, now_s, but=peer)
            amount = min(count, idle.get(worker, 0) - others)
            if amount > 0:
                granted[worker] = amount
                self._lent.setdefault((worker, peer), _Lent()).add(amount, now_s + LOAN_S)
        return granted

    def note_use(self, peer: str, beyond: Mapping[str, int]) -> None:
        """`peer` runs so many requests beyond its own slots, by worker."""
        for key in [key for key in self._used if key[1] == peer]:
            del self._used[key]
        self._used.update({(worker, peer): count for worker, count in beyond.items() if count > 0})

    def borrow(self, peer: str, granted: Mapping[str, int], asked_s: float) -> None:
        """`peer` lends; `asked_s`: when we sent the digest that it answers."""
        self._borrowed[peer] = (dict(granted), asked_s + LOAN_S)

    def forget(self, peer: str) -> None:
        """`peer` is gone, or another process: it uses nothing, and lends nothing. What it was lent runs out."""
        self._borrowed.pop(peer, None)
        self.note_use(peer, {})

    def lent_out(self, worker: str, now_s: float, but: str = "") -> int:
        """Slots of `worker` that others may be using, those of `but` left out."""
        total = 0
        for key in [key for key in self._lent if key[0] == worker and key[1] != but]:
            lent = self._lent[key]
            count = max(lent.outstanding(now_s), min(lent.last, self._used.get(key, 0)))
            if count == 0:
                del self._lent[key]
            total += count
        return total

    def borrowed(self, worker: str, now_s: float) -> int:
        """Slots of `worker` that others lend us now."""
        return sum(granted.get(worker, 0) for granted, end_s in self._borrowed.values() if end_s > now_s)
