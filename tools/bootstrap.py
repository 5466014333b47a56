"""Make the Python environments that the Makefile needs, from nothing but a Python of 3.11 or newer.

    python3 tools/bootstrap.py dev          .venv of this checkout: operator, router, tools, tests
    python3 tools/bootstrap.py worker-cpu   vLLM on CPU, shared by all checkouts; prints its python

Packages come by hash from requirements/*.txt through the index that pip is configured for. What is made is kept
under $TANDEM_CACHE (default ~/.cache/tandem) by the content of its pins, so a second call costs nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
MINIMUM = (3, 11)
# Installed size, so that a full disk is told before and not after the download.
WORKER_CPU_BYTES = 8 << 30


class BootstrapError(Exception):
    """One sentence for a person, with the fix."""


def cache_dir() -> Path:
    """Where everything that outlives a checkout is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TANDEM_CACHE") or Path(base) / "tandem")


def content_key(*files: Path) -> str:
    """Key of an environment: its pins and the Python that runs it."""
    digest = hashlib.sha256(f"{sys.version}|{sys.base_prefix}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def base_python() -> str:
    """The Python below any virtual environment that runs this file, so that both give the same environments."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


def run(*command: str | Path) -> None:
    """Run a step; its output reaches the person only when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BootstrapError(f"{' '.join(str(c) for c in command[:4])} … failed:\n{tail}")


def make_uv() -> Path:
    """The pinned installer, once per cache."""
    pins = REQUIREMENTS / "bootstrap.txt"
    home = cache_dir() / f"uv-{content_key(pins)}"
    uv = home / "bin" / "uv"
    if not uv.exists():
        scratch = home.with_suffix(f".{os.getpid()}")
        say(f"installing uv into {home}")
        try:
            run(base_python(), "-m", "venv", scratch)
        except BootstrapError as error:
            raise BootstrapError(
                f"{sys.executable} cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
            ) from error
        run(scratch / "bin" / "python", "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", pins)
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home, ignore_errors=True)
        scratch.rename(home)
    return uv


def make_dev() -> Path:
    """`.venv` of this checkout, with the packages of the tree in editable form."""
    pins, home = REQUIREMENTS / "dev.txt", ROOT / ".venv"
    stamp, key = home / ".tandem-key", content_key(pins, ROOT / "pyproject.toml")
    if not stamp.exists() or stamp.read_text() != key:
        uv = make_uv()
        say("installing the development environment (.venv)")
        if not (home / "bin" / "python").exists():
            run(uv, "venv", "-q", "--python", base_python(), home)
        python = home / "bin" / "python"
        run(uv, "pip", "sync", "-q", "-p", python, "--require-hashes", pins)
        run(uv, "pip", "install", "-q", "-p", python, "--no-deps", "--no-build-isolation", "-e", ROOT)
        stamp.write_text(key)
    return home / "bin" / "python"


def make_worker_cpu() -> Path:
    """vLLM's CPU build, about 6 GB, shared by all checkouts of this user.

    Compiled ahead: each worker is two processes that would spend nine seconds of CPU more on importing.
    """
    pins = REQUIREMENTS / "worker-cpu.txt"
    home = cache_dir() / "venvs" / f"worker-cpu-{content_key(pins)}"
    python = home / "bin" / "python"
    if not python.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home.parent).free
        if free < WORKER_CPU_BYTES:
            raise BootstrapError(
                f"vLLM needs {WORKER_CPU_BYTES >> 30} GiB in {home.parent}, {free >> 30} GiB are free: "
                "make room, or point TANDEM_CACHE at a larger disk"
            )
        scratch, started, uv = home.with_suffix(f".{os.getpid()}"), time.monotonic(), make_uv()
        say("installing vLLM for CPU, about 6 GB (half a minute with a fast mirror, minutes otherwise)")
        run(uv, "venv", "-q", "--relocatable", "--python", base_python(), scratch)
        run(uv, "pip", "sync", "-q", "-p", scratch / "bin" / "python", "--require-hashes", "--compile-bytecode", pins)
        scratch.rename(home)
        say(f"vLLM for CPU installed in {time.monotonic() - started:.0f} s")
    return python


def say(text: str) -> None:
    """Progress goes to standard error; standard output carries the result."""
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=["dev", "worker-cpu"])
    choice = parser.parse_args().environment
    if sys.version_info < MINIMUM:
        say(f"Python {'.'.join(map(str, MINIMUM))} or newer is needed, this is {sys.version.split()[0]}: set PYTHON=")
        return 2
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with (cache_dir() / f"{choice}.lock").open("w") as lock:  # two checkouts may bootstrap at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            print(make_dev() if choice == "dev" else make_worker_cpu())
    except (BootstrapError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
