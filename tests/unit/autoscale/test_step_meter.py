"""Decode is refitted by what TPOT says, while load and pool are steady, and by nothing else."""

import pytest

from tandem_api.router import EndingRecord, FleetDemand
from tandem_core.profiles import find_profile
from tandem_operator.autoscale.demand import Bin, DemandHistory
from tandem_operator.autoscale.intake import Intake
from tandem_operator.autoscale.judge import Judge
from tandem_operator.autoscale.step_meter import SPAN_S, MeanStep, StepMeter

MODEL = find_profile("70b-h100-tp4").performance
SPAN = int(SPAN_S)


def held(sequences: float, spans: int, kv_each: float = 1500.0) -> DemandHistory:
    history = DemandHistory()
    for second in range(spans * SPAN):
        history.add_bin(Bin(second, held_s=sequences, held_kv_s=sequences * kv_each))
    return history


def ended(tpot_s: float | None = 0.03, **changes: object) -> EndingRecord:
    return EndingRecord(1.0, tpot_s=tpot_s, completion_tokens=100, **changes)


def read_spans(meter: StepMeter, history: DemandHistory, workers: list[int], **ending: object) -> list[MeanStep | None]:
    """One reading at the start, and one after each span, before which forty requests ended."""
    found = [meter.read(history, workers[0], 0.0)]
    for at, count in enumerate(workers, start=1):
        for _ in range(40):
            meter.add(ended(**ending))
        found.append(meter.read(history, count, float(at * SPAN)))
    return found


def test_under_steady_load_tpot_is_the_step_of_the_mean_batch():
    assert read_spans(StepMeter(), held(80.0, 3), [2, 2, 2]) == [
        None,
        None,  # nothing to compare with
        MeanStep(40.0, 60_000.0, pytest.approx(0.03)),
        MeanStep(40.0, 60_000.0, pytest.approx(0.03)),
    ]


def test_a_span_is_read_once_and_whole():
    meter, history = StepMeter(), held(80.0, 3)
    read_spans(meter, history, [2, 2])
    assert meter.read(history, 2, 2.0 * SPAN + 5) is None


@pytest.mark.parametrize("workers", [[2, 3, 2], [0, 0, 0]])
def test_a_pool_that_changes_or_is_empty_says_nothing(workers):
    assert read_spans(StepMeter(), held(80.0, 3), workers) == [None] * 4


def test_a_load_that_moves_says_nothing():
    history = held(80.0, 1)
    for second in range(SPAN, 2 * SPAN):
        history.add_bin(Bin(second, held_s=120.0))
    assert read_spans(StepMeter(), history, [2, 2])[-1] is None


@pytest.mark.parametrize(
    "ending", [{"tpot_s": None}, {"is_failed": True}, {"weight": 0.1}], ids=["no tpot", "failed", "too few"]
)
def test_what_says_little_of_steps_is_passed_over(ending):
    assert read_spans(StepMeter(), held(80.0, 3), [2, 2, 2], **ending) == [None] * 4


def test_the_model_follows_an_engine_that_decodes_a_third_slower():
    """Batches of five sizes, in turn; what is believed of sizes between them is right as well."""
    intake = Intake(MODEL)
    slow, at = MODEL.scaled(decode=1.33), 0
    for number in range(60):
        batch = 20.0 + 40.0 * (number % 5)
        for second in range(at, at + 3 * SPAN):
            intake.history.add_bin(Bin(second, held_s=2 * batch, held_kv_s=2 * batch * 1500.0))
        for _ in range(3):
            at += SPAN
            told = FleetDemand(
                namespace="team",
                name="llama",
                uid="u",
                endings=(ended(slow.decode_step_s(batch, batch * 1500.0)),) * 40,
            )
            intake.take("router", told, Judge(None, None), float(at))
            intake.learn_decode(2, float(at))
        intake.trim(float(at))
    assert intake.model is not None
    assert intake.model.decode_step_s(90.0, 135_000.0) == pytest.approx(slow.decode_step_s(90.0, 135_000.0), rel=0.03)
    assert intake.residual < 0.1
