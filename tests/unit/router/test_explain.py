"""`tandem-router explain`: one decision, taken again, with what the losers would have cost."""

import asyncio
import json

import pytest
from unit.router.scripted import Engine, ask, running

from tandem_core.keys import encode_key
from tandem_router import explain
from tandem_router.policy.learned import PREFILL_SHARES


def prefills(count):
    return [Engine(f"p{number}", "prefill") for number in range(count)]


async def taken(bench, *arguments):
    """Output of the command against the running router."""
    url = f"http://127.0.0.1:{bench.router.internal_port}"
    options = ["--url", url, "--keys-dir", str(bench.file.parent), *arguments]
    return await asyncio.to_thread(explain.main, options)


async def test_a_decision_is_taken_again_with_the_losers_beside_it(tmp_path, capsys):
    (tmp_path / "router.key").write_text(encode_key(bytes(range(32))))
    async with running(tmp_path, [*prefills(2), Engine("d0", "decode")]) as bench:
        assert (await ask(bench)).status == 200
        assert await taken(bench) == 0
        out = capsys.readouterr().out
        assert "nothing is learned yet" in out
        assert {"p0", "p1", "d0"} <= set(out.split())
        assert out.count("◄ chosen") == 2
        assert out.rstrip().endswith("as it was")
        assert await taken(bench, "--list", "--fleet", "default/demo") == 0
        assert "default/demo" in capsys.readouterr().out
        assert await taken(bench, "--number", "99") == 1
        assert "no such decision" in capsys.readouterr().err
        assert await taken(bench, "--fleet", "default/none") == 1
        assert "HTTP 404" in capsys.readouterr().err


async def test_learned_workers_are_scored_in_seconds(tmp_path, capsys):
    (tmp_path / "router.key").write_text(encode_key(bytes(range(32))))
    assert PREFILL_SHARES
    async with running(tmp_path, [*prefills(2), Engine("d0", "decode")]) as bench:
        for _, worker in bench.router.catalog.workers():
            for _ in range(5):
                worker.fits.prefill.observe(1000, 1e6, 0.1)
                worker.fits.decode.observe(4, 1000, 0.02)
        assert (await ask(bench)).status == 200
        assert await taken(bench) == 0
        assert "cost in seconds" in capsys.readouterr().out


def test_a_router_that_is_not_there_is_named(tmp_path, capsys):
    (tmp_path / "router.key").write_text(encode_key(bytes(range(32))))
    assert explain.main(["--url", "http://127.0.0.1:9", "--keys-dir", str(tmp_path)]) == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    assert explain.main(["--url", "ftp://x", "--keys-dir", str(tmp_path)]) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"decisions": [{"number": 1, "fields": {}}]}'])
def test_a_file_that_holds_no_decision_is_refused(tmp_path, text, capsys):
    file = tmp_path / "decisions.json"
    file.write_text(text)
    fields = {"unix_s": 0, "fleet": "f", "prefill": None, "decode": "d", "reason": "mixed", "revision": "a"}
    if "number" in text:
        file.write_text(json.dumps({"decisions": [{"number": 1, "waited_s": 0, "fields": {}, **fields}]}))
    assert explain.main(["--file", str(file)]) == 1
    assert "tandem-router explain:" in capsys.readouterr().err
