"""Digests under mutual TLS: replicas of one authority hear each other, a stranger with the right token is not heard."""

import asyncio
import datetime
import socket

import pytest
from unit.router.scripted import Bench, ask, pair, running

from cluster.pki import CertificateAuthority, KeyPair
from tandem_core.keys import encode_key


def new_authority(folder):
    return CertificateAuthority(folder, datetime.datetime.now(datetime.UTC))


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def meeting(authority: CertificateAuthority, shown: KeyPair, port: int, peer: int) -> dict[str, object]:
    """Settings of a replica that shows `shown` and trusts `authority`."""
    return {
        "internal_port": port,
        "peers": (f"127.0.0.1:{peer}",),
        "internal_tls_cert": shown.certificate,
        "internal_tls_key": shown.key,
        "internal_tls_ca": authority.certificate,
    }


def heard_by(bench: Bench) -> set[str]:
    return set(bench.router.peering.replica.describe(asyncio.get_running_loop().time())["heard"])


@pytest.mark.parametrize("is_stranger", [False, True])
async def test_only_replicas_of_one_authority_hear_each_other(tmp_path, is_stranger):
    ours = new_authority(tmp_path / "pki")
    theirs = new_authority(tmp_path / "other") if is_stranger else ours
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "router.key").write_text(encode_key(bytes(range(32))))  # the token is right in any case
    first, second = free_ports(2)
    one_shows = ours.issue_peer("one", (), ("127.0.0.1",))
    two_shows = theirs.issue_peer("two", (), ("127.0.0.1",))
    async with (
        running(tmp_path / "one", pair(), **meeting(ours, one_shows, first, second)) as one,
        running(tmp_path / "two", pair(), **meeting(theirs, two_shows, second, first)) as two,
    ):
        for _ in range(200):
            if heard_by(one) and heard_by(two):
                break
            await asyncio.sleep(0.005 if not is_stranger else 0.002)
        expected = (set(), set()) if is_stranger else ({f"127.0.0.1:{second}"}, {f"127.0.0.1:{first}"})
        assert (heard_by(one), heard_by(two)) == expected
        assert {(await ask(bench)).status for bench in (one, two)} == {200}
