"""A row for each scenario, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from regions.ledger import Ended, Ledger
from regions.scenarios import Scenario
from regions.watch import Down, Watch

DETECTION_MS = 500.0
LOOK_MS = 100.0  # the watch looks that often
DETECTION_ON_A_BUSY_MACHINE_MS = 1500.0  # fails above; between the two it is said
SETTLED_S = 3.0  # a choice follows what the regions tell after so long
MOST_SWINGS = 1
LONGEST_MISTAKE_S = 2.0  # a busy machine may be silent for 300 ms; it is heard again at once
LEAVING_SHARE = 0.3

HEAD = ("scenario", "requests", "ok", "no way", "refused", "cut", "lost", "breaches", "away", "TTFT p50/p99 ms",
        "found ms", "whole again s", "swings", "downs")  # fmt: skip


@dataclass(frozen=True)
class Span:
    """When a scenario began to hurt, was healed, and was over; seconds of one clock. `recovered_s`: None: never."""

    hurt_s: float
    healed_s: float
    over_s: float
    recovered_s: float | None


@dataclass(frozen=True)
class Outcome:
    """One scenario as it went."""

    scenario: Scenario
    ledger: Ledger
    span: Span
    found_ms: tuple[float | None, ...]
    downs: tuple[Down, ...]
    breaches: tuple[Ended, ...]
    wrongly_refused: tuple[Ended, ...]

    @property
    def hurt(self) -> Ledger:
        """Requests of the time in which it hurt."""
        return self.ledger.between(self.span.hurt_s, self.span.healed_s)

    def faults(self) -> Iterator[str]:
        """What must not be."""
        if refused := len(self.wrongly_refused):
            told = Ledger(list(self.wrongly_refused)).details("refused")
            yield f"{refused} refused although an allowed region was in reach: {told}"
        if lost := self.ledger.count("lost"):
            yield f"{lost} lost without a word: {self.ledger.details('lost')}"
        if (cut := self.ledger.count("cut")) and not self.scenario.may_cut:
            yield f"{cut} streams cut: {self.ledger.details('cut')}"
        if self.breaches:
            first = self.breaches[0]
            yield f"{len(self.breaches)} served where {first.tenant} does not allow it: {first}"
        yield from self._faults_of_belief()
        yield from self._faults_of_choice()

    def _faults_of_belief(self) -> Iterator[str]:
        for pair, found_ms in zip(self.scenario.found_by, self.found_ms, strict=True):
            if found_ms is None or found_ms > DETECTION_ON_A_BUSY_MACHINE_MS:
                yield f"{pair[0]} did not notice in time that {pair[1]} is gone: {found_ms} ms"
        if self.scenario.stays_up and (long := [one for one in self.downs if one.lasted_s > LONGEST_MISTAKE_S]):
            yield f"believed down without need: {', '.join(map(str, long))}"
        if self.span.recovered_s is None:
            yield "not all regions believe in each other again"

    def _faults_of_choice(self) -> Iterator[str]:
        for region in self.scenario.leaves:
            share = self._settled(region).away_share()
            if share < LEAVING_SHARE:
                yield f"only {share:.0%} of the requests of {region} went elsewhere"
        swings = max((self._settled(region).swings() for region in self.scenario.leaves), default=0)
        if swings > MOST_SWINGS:
            yield f"the share that leaves swung {swings} times"

    def _settled(self, region: str) -> Ledger:
        found = self.hurt.between(self.span.hurt_s + SETTLED_S, self.span.healed_s).of(region)
        return Ledger([one for one in found.entries if one.tenant == "anywhere"])

    def row(self) -> tuple[str, ...]:
        """For the table."""
        ledger, found = self.ledger, [f"{one:.0f}" if one is not None else "never" for one in self.found_ms]
        swings = [self._settled(region).swings() for region in self.scenario.leaves]
        whole = "-" if self.span.recovered_s is None else f"{self.span.recovered_s - self.span.healed_s:.1f}"
        return (
            self.scenario.name,
            str(len(ledger.entries)),
            str(ledger.count("ok")),
            str(ledger.count("refused") - len(self.wrongly_refused)),
            str(len(self.wrongly_refused)),
            str(ledger.count("cut")),
            str(ledger.count("lost")),
            str(len(self.breaches)),
            f"{self.hurt.away_share():.0%}",
            f"{self.hurt.ttft_ms(0.5):.0f} / {self.hurt.ttft_ms(0.99):.0f}",
            ", ".join(found) or "-",
            whole if self.scenario.heal else "-",
            ", ".join(map(str, swings)) or "-",
            str(len(self.downs)),
        )


def judge(
    scenario: Scenario, ledger: Ledger, span: Span, watch: Watch, allowed: Mapping[str, frozenset[str]]
) -> Outcome:
    """What the account of a scenario says."""
    mine = ledger.between(span.hurt_s, span.over_s)
    refused = [one for one in mine.entries if one.outcome == "refused"]
    wrongly = tuple(one for one in refused if _had_a_way(scenario, one, allowed))
    found = tuple(watch.first(*pair, ("down",), span.hurt_s, span.over_s) for pair in scenario.found_by)
    return Outcome(
        scenario,
        mine,
        span,
        tuple(None if one is None else 1000 * one for one in found),
        tuple(one for one in watch.downs() if span.hurt_s <= one.at_s < span.over_s),
        tuple(mine.breaches(allowed)),
        wrongly,
    )


def _had_a_way(scenario: Scenario, one: Ended, allowed: Mapping[str, frozenset[str]]) -> bool:
    return any(scenario.can_reach(one.entry, region) for region in allowed[one.tenant])


def show(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The table, in Markdown."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for outcome in outcomes:
        yield f"| {' | '.join(outcome.row())} |"
    checked = sum(len(outcome.ledger.entries) for outcome in outcomes)
    breaches = sum(len(outcome.breaches) for outcome in outcomes)
    yield ""
    yield f"{checked} requests checked against the residency of their tenant, {breaches} breaches."
