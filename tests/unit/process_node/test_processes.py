"""Children: exit codes, whole groups, and no survivor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.process_node.folders import FolderError, NodeFolders, remove_tree
from cluster.process_node.orphans import (
    NODE_MARK,
    end_leftover_processes,
    kill_all,
    marked_processes,
    record_pid,
    recorded_processes,
    remove_all_traces,
)
from cluster.process_node.processes import Launch, LaunchError, run_to_end, spawn, start_ticks


def shell(script: str, **env: str) -> Launch:
    return Launch(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin", **env}, Path("/"))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "not within 5 s"
        time.sleep(0.01)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)])
async def test_exit_codes_and_signals_come_back(script: str, code: int) -> None:
    process = spawn(shell(script), subprocess.DEVNULL, subprocess.DEVNULL)
    assert await process.wait() == code
    assert not process.is_running
    process.send(signal.SIGTERM)
    process.kill_group()


async def test_a_child_leads_a_session_of_its_own() -> None:
    process = spawn(shell("sleep 60"), subprocess.DEVNULL, subprocess.DEVNULL)
    assert os.getsid(process.pid) == process.pid
    process.kill_group()
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("program", ["/nonexistent", "/etc/passwd"])
async def test_a_program_that_cannot_start_is_an_error(program: str) -> None:
    with pytest.raises(LaunchError, match=f"cannot start {program}"):
        spawn(Launch([program], {}, Path("/")), subprocess.DEVNULL, subprocess.DEVNULL)


async def test_a_command_gives_its_code_and_the_start_of_its_output() -> None:
    assert await run_to_end(shell("echo out; echo err >&2; exit 3")) == (3, "out\nerr\n")
    code, output = await run_to_end(shell("head -c 200000 /dev/zero | tr '\\0' x"), output_limit_bytes=10)
    assert (code, output) == (0, "x" * 10)


async def test_a_daemon_that_keeps_the_output_open_does_not_hold_a_command_up() -> None:
    async with asyncio.timeout(5):
        code, _ = await run_to_end(shell("setsid sleep 65 & exit 4", TEST_MARK="daemon"))
    assert code == 4
    kill_all(marked_processes("TEST_MARK", "daemon"))


async def test_a_cancelled_command_leaves_no_process() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await run_to_end(shell("sleep 61 & wait", TEST_MARK="cancelled"))
    wait_until(lambda: not marked_processes("TEST_MARK", "cancelled"))


def test_children_die_with_the_process_that_started_them() -> None:
    script = (
        "import asyncio, subprocess; from pathlib import Path;"
        "from cluster.process_node.processes import Launch, spawn\n"
        "async def main():\n"
        "  p = spawn(Launch(['/bin/sleep', '62'], {}, Path('/')), subprocess.DEVNULL, subprocess.DEVNULL)\n"
        "  print(p.pid, flush=True); await p.wait()\n"
        "asyncio.run(main())"
    )
    root = Path(__file__).parents[3] / "e2e"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert start_ticks(child) is not None
        parent.kill()
    wait_until(lambda: start_ticks(child) is None)


def test_recorded_processes_are_found_only_while_they_are_the_same(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "63"]) as child:
        record_pid(tmp_path / "pods/u/pids/a", child.pid, start_ticks(child.pid))
        record_pid(tmp_path / "pods/u/pids/another", child.pid, 1)
        (tmp_path / "pods/u/pids/torn").write_text("12")
        assert recorded_processes(tmp_path) == [child.pid]
        child.kill()
    assert recorded_processes(tmp_path) == []


def test_everything_that_carries_the_nodes_mark_is_ended_also_what_left_its_session(tmp_path: Path) -> None:
    folders = NodeFolders(tmp_path.resolve())
    folders.make()
    env = {"PATH": "/usr/bin:/bin", NODE_MARK: str(folders.root)}
    with subprocess.Popen(["sh", "-c", "setsid sleep 64 & sleep 64 & wait"], env=env) as child:
        wait_until(lambda: len(marked_processes(NODE_MARK, str(folders.root))) == 3)
        assert remove_all_traces(tmp_path) == 3
        assert child.wait() == -signal.SIGKILL
    assert end_leftover_processes(folders.root) == 0
    assert not any(folder.exists() for folder in (folders.pods, folders.memory, folders.short))


def test_a_folder_that_another_user_could_have_planted_is_refused(tmp_path: Path) -> None:
    folders = NodeFolders(tmp_path.resolve())
    folders.short.symlink_to(tmp_path)
    try:
        with pytest.raises(FolderError, match="belongs to someone else"):
            folders.make()
    finally:
        folders.short.unlink()
        folders.remove()


def test_paths_that_programs_get_leave_room_for_a_socket(tmp_path: Path) -> None:
    folders = NodeFolders(tmp_path / ("long" * 20)).pod("0123456789abcdef0123456789abcdef0123")
    seen = folders.seen_by_programs(folders.container("engine") / "tmp")
    assert len(str(seen / ("x" * 36))) < 107


def test_a_tree_that_may_not_be_written_is_removed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "t/inner").mkdir(parents=True)
    (tmp_path / "t/inner/file").write_text("x")
    (tmp_path / "t/inner").chmod(0o500)
    remove_tree(tmp_path / "t")
    remove_tree(tmp_path / "never-there")
    assert not (tmp_path / "t").exists()
