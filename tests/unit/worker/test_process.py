"""The worker as a process: exit codes, termination messages, children that never outlive it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.worker.parts import build_config

from tandem_worker.child import LogTail
from tandem_worker.install import install

REPOSITORY = Path(__file__).parents[3]
CODE = os.pathsep.join(str(REPOSITORY / folder) for folder in ("operator", "workers"))

# An engine with a child of its own; each says its pid in one write, then lives until it is stopped.
ENGINE = r"""
import os, time
from tandem_worker.process_control import die_with_parent, have_forks_die_with_parent
die_with_parent(); have_forks_die_with_parent()
name = "child" if os.fork() else "grandchild"
os.write(1, f"{name} {os.getpid()}\n".encode()); time.sleep(60)
"""
SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from tandem_worker.child import ChildProcess
async def main():
    child = ChildProcess([sys.executable, "-c", sys.argv[1]], os.environ, Path("/"))
    await child.start()
    print("returned", await child.wait(), flush=True)
    await child.stop(1)
asyncio.run(main())
"""


def run_worker(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m tandem_worker` with nothing but this environment."""
    environment = {"PYTHONPATH": CODE, "TANDEM_TERMINATION_LOG": str(tmp_path / "termination"), **environ}
    command = [sys.executable, "-m", "tandem_worker"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


def test_a_worker_that_was_told_wrongly_ends_with_2_and_a_typed_message(tmp_path: Path) -> None:
    ended = run_worker(tmp_path, TANDEM_WORKER='{"role": "sing"}')
    assert ended.returncode == 2
    message = (tmp_path / "termination").read_text()
    assert message.startswith("InvalidSpec: TANDEM_WORKER: fleet: Field required; role: ")
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    environ = {name: str(tmp_path / name) for name in ("TANDEM_KEYS_DIR", "TANDEM_RUN_DIR", "TANDEM_DATA_DIR")}
    ended = run_worker(tmp_path, TANDEM_WORKER=build_config().model_dump_json(), POD_IP="127.3.0.1", **environ)
    assert ended.returncode == 2
    assert (tmp_path / "termination").read_text().startswith("SecretMissing: ")
    assert "Traceback" not in ended.stderr


def test_a_termination_log_that_cannot_be_written_changes_nothing_else(tmp_path: Path) -> None:
    ended = run_worker(tmp_path, TANDEM_TERMINATION_LOG=str(tmp_path / "no" / "such" / "place"))
    assert ended.returncode == 2
    assert "TANDEM_WORKER is not set" in ended.stderr


@pytest.fixture
def supervised() -> Iterator["subprocess.Popen[str]"]:
    command, environment = [sys.executable, "-c", SUPERVISOR, ENGINE], {**os.environ, "PYTHONPATH": CODE}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def read_pids(process: "subprocess.Popen[str]") -> dict[str, int]:
    """Name → pid of child and grandchild."""
    assert process.stdout is not None
    return {name: int(pid) for name, pid in (process.stdout.readline().split() for _ in range(2))}


def wait_gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether a process ends in time. A zombie has ended."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_nothing_outlives_a_supervisor_that_is_killed(supervised: "subprocess.Popen[str]") -> None:
    pids = read_pids(supervised)
    supervised.kill()
    supervised.wait()
    assert wait_gone(pids["child"])
    assert wait_gone(pids["grandchild"])


def test_an_engines_end_is_seen_and_what_it_left_is_killed(supervised: "subprocess.Popen[str]") -> None:
    pids = read_pids(supervised)
    os.kill(pids["child"], signal.SIGKILL)
    assert supervised.stdout is not None
    assert supervised.stdout.readline().split() == ["returned", "-9"]
    supervised.wait(10)
    assert wait_gone(pids["grandchild"])


def test_the_last_lines_of_output_are_kept_and_cut_bytes_joined() -> None:
    tail = LogTail(lines=2)
    for chunk in (b"one\ntw", b"o\nthr", b"ee\nfour"):
        tail.feed(chunk)
    assert tail.read_lines() == ["two", "three", "four"]


def test_installed_code_starts_a_worker_without_the_repository(tmp_path: Path) -> None:
    install(tmp_path / "code")
    install(tmp_path / "code")  # a container that starts again
    assert not list((tmp_path / "code").rglob("*.pyc"))
    assert (tmp_path / "code" / "tandem_worker" / "tiny_corpus.txt").is_file()
    ended = run_worker(tmp_path, PYTHONPATH=str(tmp_path / "code"))
    assert "TANDEM_WORKER is not set" in ended.stderr


async def test_a_sim_worker_drains_and_ends_with_0_on_sigterm(tmp_path: Path, keys_dir: Path) -> None:
    environ = {
        "PYTHONPATH": CODE,
        "TANDEM_WORKER": build_config(drain_timeout_s=0.2).model_dump_json(),
        "POD_IP": f"127.4.{os.getpid() % 250}.{os.getpid() // 250 % 250}",
        "TANDEM_KEYS_DIR": str(keys_dir),
        "TANDEM_RUN_DIR": str(tmp_path / "run"),
        "TANDEM_DATA_DIR": str(tmp_path / "data"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tandem_worker", env=environ, stderr=asyncio.subprocess.PIPE
    )
    await _wait_listening(environ["POD_IP"])
    process.terminate()
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, stderr


async def _wait_listening(address: str) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection(address, 8000)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise TimeoutError(f"nobody listens on {address}")
