"""The prefill engine dies or stops: before, during and after the transfer."""

import signal
import threading

from integration.kv.vllm_engine import prefill

from chaos.kv.stage import Expected, Outcome, Stage
from chaos.kv.strike import Noticing, Strike, arriving_at, loaded_by

_TOKENS = 1400
_DURING_S = 0.9  # of the 2.6 s that a transfer takes
_NOTICE_KILL_S = 0.2
_LONG_ANSWER = 400
_STOPPED_S = 4.0


def kill_before(stage: Stage) -> Outcome:
    """It answered with a ticket, then died."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    stage.victim.kill()
    stage.victim.process.wait(10)
    return stage.redeem(question, ticket, Expected(8, (_TOKENS, _TOKENS)))


def restart_at_same_address(stage: Stage) -> Outcome:
    """A new start of the engine serves; a ticket of its former self does not."""
    question = stage.make_question(300)
    ticket = prefill(stage.victim, question.prompt)
    stage.victim.kill()
    _restart(stage)
    stale = stage.redeem(question, ticket, Expected(8, (300, 300)))
    again = _serve_again(stage)
    stale.misses += again.misses
    stale.summary += f"; then served in {again.seconds:.1f} s"
    return stale


def kill_during(stage: Stage) -> Outcome:
    """A part of the blocks is here; only the others are computed again. A dead peer's sockets close when the kernel
    has taken its memory back, which on a busy machine takes longer than to notice it.
    """
    outcome, seen = _strike_during(stage, signal.SIGKILL)
    if seen.noticed_s is None:
        outcome.misses.append("the death was not noticed")
    else:
        dead_s = seen.dead_s or 0.0
        outcome.summary += f", dead after {dead_s * 1e3:.0f} ms, noticed after {seen.noticed_s * 1e3:.0f} ms"
        if seen.noticed_s - dead_s > _NOTICE_KILL_S:
            outcome.misses.append(f"noticed more than {_NOTICE_KILL_S * 1e3:.0f} ms after its sockets closed")
    _restart(stage)
    return outcome


def kill_after(stage: Stage) -> Outcome:
    """All KV is here; the answer goes on."""
    outcome = _strike_after(stage, signal.SIGKILL)
    _restart(stage)
    return outcome


def stop_before(stage: Stage) -> Outcome:
    """It hangs instead of answering the pull."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    stage.victim.kill(signal.SIGSTOP)
    return _go_on(stage, stage.redeem(question, ticket, Expected(12, (_TOKENS, _TOKENS))))


def stop_before_and_go_on(stage: Stage) -> Outcome:
    """NIXL has no deadline for a read: the request waits as long as the peer is stopped, and is right all the same.

    The two have met before. A peer that is stopped when it is met first has taken 43 s to be used.
    """
    met = _serve_again(stage)
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    stage.victim.kill(signal.SIGSTOP)
    alarm = threading.Timer(_STOPPED_S, stage.victim.kill, (signal.SIGCONT,))
    alarm.start()
    outcome = stage.redeem(question, ticket, Expected(_STOPPED_S + 8, (0, _TOKENS)))
    alarm.join()
    outcome.summary += f", stopped for {_STOPPED_S:g} s"
    outcome.misses += [f"before: {miss}" for miss in met.misses]
    return outcome


def stop_during(stage: Stage) -> Outcome:
    """It hangs amid the blocks."""
    return _go_on(stage, _strike_during(stage, signal.SIGSTOP)[0])


def stop_after(stage: Stage) -> Outcome:
    """It hangs when its part is done."""
    return _go_on(stage, _strike_after(stage, signal.SIGSTOP))


def _strike_during(stage: Stage, with_signal: signal.Signals) -> tuple[Outcome, Noticing]:
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    strike = Strike(stage.victim, with_signal, stage.decode, arriving_at(stage.decode, _DURING_S))
    outcome = stage.redeem(question, ticket, Expected(12, (1, _TOKENS - 1)))
    return outcome, strike.finish()


def _strike_after(stage: Stage, with_signal: signal.Signals) -> Outcome:
    question = stage.make_question(200, _LONG_ANSWER)
    ticket = prefill(stage.victim, question.prompt)
    strike = Strike(stage.victim, with_signal, stage.decode, loaded_by(stage.decode))
    outcome = stage.redeem(question, ticket, Expected(20))
    strike.finish()
    return outcome


def _go_on(stage: Stage, outcome: Outcome) -> Outcome:
    stage.victim.kill(signal.SIGCONT)
    outcome.misses += [f"after SIGCONT: {miss}" for miss in _serve_again(stage).misses]
    return outcome


def _restart(stage: Stage) -> None:
    stage.victim.restart()
    stage.victim.wait_ready()


def _serve_again(stage: Stage) -> Outcome:
    question = stage.make_question(100)
    return stage.redeem(question, prefill(stage.victim, question.prompt), Expected(8))
