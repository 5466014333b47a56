"""Why an engine ended, from its last words."""

import pytest

from tandem_api.conditions import Reason
from tandem_worker.diagnosis import diagnose_exit

API_SERVER_ECHO = (
    "(APIServer pid=9) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "OSError: no/such is not a local folder and is not a valid model identifier listed on the hub",
            Reason.MODEL_UNAVAILABLE,
        ),
        ("huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error", Reason.MODEL_UNAVAILABLE),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error", Reason.MODEL_UNAVAILABLE),
        ("vllm: error: unrecognized arguments: --frobnicate", Reason.INVALID_SPEC),
        ("api_server.py: error: argument --dtype: invalid choice: 'x'", Reason.INVALID_SPEC),
        (
            "(EngineCore pid=1) ERROR 11-21 15:00:00 [core.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried",
            Reason.INSUFFICIENT_GPU,
        ),
        ("RuntimeError: No CUDA GPUs are available", Reason.INSUFFICIENT_GPU),
        ("ModuleNotFoundError: No module named 'vllm'", Reason.IMAGE_UNAVAILABLE),
        ("AssertionError: something else", Reason.WORKER_CRASHING),
    ],
)
def test_the_root_cause_decides_not_the_echo_of_the_api_server(line: str, reason: Reason) -> None:
    fault = diagnose_exit(1, ["INFO starting", line, "Traceback (most recent call last):", API_SERVER_ECHO, ""])
    assert fault.reason is reason
    assert fault.exit_code == 1
    assert line.split()[-1].rstrip(".") in str(fault)
    assert "root cause above" not in str(fault)


def test_log_prefixes_are_left_out_of_the_message() -> None:
    line = "(EngineCore pid=1) ERROR 11-21 15:00:00 [core.py:9] ValueError: page size 3"
    assert (
        str(diagnose_exit(1, [line]))
        == "The engine ended with code 1: ValueError: page size 3; see the container's log"
    )


@pytest.mark.parametrize(
    ("returncode", "exit_code", "words"), [(-9, 137, "signal 9"), (0, 1, "code 0"), (3, 3, "code 3")]
)
def test_an_engine_that_says_nothing_still_ends_with_a_reason_and_never_with_success(
    returncode: int, exit_code: int, words: str
) -> None:
    fault = diagnose_exit(returncode, [])
    assert fault.reason is Reason.WORKER_CRASHING
    assert fault.exit_code == exit_code
    assert words in str(fault)


def test_the_message_fits_into_a_termination_log() -> None:
    fault = diagnose_exit(1, ["ValueError: " + "x" * 10_000])
    assert len(fault.to_termination_message().encode()) < 4096
    assert fault.to_termination_message().startswith("WorkerCrashing: ")


def test_a_model_that_is_not_there_is_named_even_where_the_library_leaves_it_out() -> None:
    line = "OSError: We couldn't connect to the hub to load the files"
    assert "spec.model.source (hf://nobody/nothing)" in str(diagnose_exit(1, [line], "hf://nobody/nothing"))
