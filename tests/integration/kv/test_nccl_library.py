"""The binding against the libnccl that torch ships: no GPU is needed to see that both speak of the same things."""

import json
import re
import subprocess
from typing import Any

import pytest
from integration.kv.vllm_engine import REPOSITORY, build_environment

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def report(worker_python: str) -> dict[str, Any]:
    """What the library did in a process of its own; CUDA devices are hidden, so that it is the same everywhere."""
    command = [worker_python, str(REPOSITORY / "tests/integration/kv/nccl_probe.py")]
    environment = build_environment({"CUDA_VISIBLE_DEVICES": "", "NCCL_SOCKET_IFNAME": "lo"})
    output = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=100).stdout
    value: dict[str, Any] = json.loads(output)
    return value


@pytest.fixture(scope="module")
def header(report: dict[str, Any]) -> str:
    if not report["header"]:
        pytest.skip("this libnccl came without nccl.h")
    return str(report["header"])


def test_the_version_is_that_of_the_header(report: dict[str, Any], header: str) -> None:
    assert report["version"] == [_defined(header, f"NCCL_{part}") for part in ("MAJOR", "MINOR", "PATCH")]


def test_the_config_is_laid_out_as_the_header_begins_it(report: dict[str, Any], header: str) -> None:
    body = header.split("typedef struct ncclConfig_v")[1].split("}")[0]
    fields = re.findall(r"^\s+(size_t|unsigned int|int|const char) \*?(\w+);", body, re.MULTILINE)
    offsets, end = {}, 0
    for kind, name in fields[: len(report["offsets"])]:
        size = {"size_t": 8, "const char": 8}.get(kind, 4)
        end += -end % size
        offsets[name] = end
        end += size
    assert report["offsets"] == offsets
    assert report["config_bytes"] == end + -end % 8
    assert report["config"] == [report["config_bytes"], 0xCAFEBEEF, 0, 1, 4]


def test_results_have_the_numbers_of_the_header(report: dict[str, Any], header: str) -> None:
    numbers = dict(re.findall(r"nccl(\w+) += +(\d+)", header.split("} ncclResult_t")[0]))
    del numbers["NumResults"]
    ours = {name.replace("_", ""): value for name, value in report["results"].items()}
    assert ours == {name.upper(): int(number) for name, number in numbers.items()}


def test_unique_ids_are_whole_and_unique(report: dict[str, Any]) -> None:
    assert (report["id_bytes"], report["ids_differ"]) == (128, True)


def test_without_a_device_calls_fail_with_the_reason_that_cuda_gives(report: dict[str, Any]) -> None:
    for call, name in (("allocate", "ncclMemAlloc"), ("init", "ncclCommInitRankConfig")):
        assert report[call]["result"] == "UNHANDLED_CUDA_ERROR"
        assert report[call]["call"] == name
        assert "Cuda failure" in report[call]["text"]


def test_a_communicator_that_is_none_is_refused_and_not_followed(report: dict[str, Any]) -> None:
    for call in ("state_of_null", "memory_of_null", "send_on_null", "register_on_null"):
        assert report[call]["result"] == "INVALID_ARGUMENT"
        assert "comm argument is NULL" in report[call]["text"]


def test_a_cuda_runtime_without_a_driver_is_no_cuda(report: dict[str, Any]) -> None:
    assert "finds no device" in report["cuda"]["refusal"]
    for call, said in report["cuda"]["calls"].items():
        assert re.search(r"error (35|100): ", said), f"{call}: {said}"  # no driver, or none of its devices


def test_cuda_is_called_as_its_header_declares_it(report: dict[str, Any]) -> None:
    types, api = report["cuda"]["types"], report["cuda"]["api"]
    if not types:
        pytest.skip("this libcudart came without its headers")
    for name, value in (
        ("cudaErrorNotReady", 600),
        ("cudaMemcpyDefault", 4),
        ("cudaMemcpySrcAccessOrderStream", 1),
    ):
        assert re.search(rf"\b{name} += +(0x)?{value}\b", types), name
    for name, value in (("cudaStreamNonBlocking", 1), ("cudaEventDisableTiming", 2), ("cudaHostAllocPortable", 1)):
        assert re.search(rf"#define {name} +0x0{value} ", types), name
    fields = re.search(r"struct __device_builtin__ cudaMemcpyAttributes \{(.*?)\};", types, re.DOTALL)
    assert fields is not None
    names = re.findall(r"(\w+);", fields[1])
    assert names == list(report["cuda"]["attribute_offsets"])
    assert list(report["cuda"]["attribute_offsets"].values()) == [0, 4, 12, 20]  # enum, two of (enum, int), unsigned
    assert report["cuda"]["attribute_bytes"] == 24
    batch = re.search(r"cudaMemcpyBatchAsync\(([^)]*)\);", api)
    assert batch is not None
    assert [each.split()[-1].lstrip("*") for each in batch[1].split(",")] == [
        *("dsts", "srcs", "sizes", "count", "attrs", "attrsIdxs", "numAttrs", "stream"),
    ]


def _defined(header: str, name: str) -> int:
    found = re.search(rf"#define {name} (\d+)", header)
    assert found is not None, name
    return int(found[1])
