"""The lines between regions: TLS with tokens or certificates, names, and what a stream may carry."""

import asyncio
import datetime
import json

import pytest
from unit.router.regions.two_regions import world

from cluster.pki import CertificateAuthority
from tandem_router.http1.exchange import Endpoint, UpstreamError
from tandem_router.regions.lines import DigestLines, NotThePeerError
from tandem_router.regions.link import parse_url, read_digest


@pytest.fixture
def authority(tmp_path):
    return CertificateAuthority(tmp_path / "pki", datetime.datetime.now(datetime.UTC))


@pytest.fixture
def listener_tls(authority):
    server = authority.issue_peer("router", ("localhost",), ("127.0.0.1",))
    return {"internal_tls_cert": server.certificate, "internal_tls_key": server.key}


async def test_regions_speak_tls_by_name_and_believe_the_ca_that_they_were_given(tmp_path, authority, listener_tls):
    plan = {"settings": listener_tls, "ca": authority.certificate, "place": "https://localhost"}
    async with world(tmp_path, {"eu": 0, "us": 1}, **plan) as made:
        assert (await made["eu"].ask(stream=True)).headers["x-tandem-region"] == "us"
        other = CertificateAuthority(tmp_path / "other", datetime.datetime.now(datetime.UTC))
        place = made["eu"].folder / "peers" / "us" / "ca.crt"
        place.write_bytes(other.certificate.read_bytes())
        made["eu"].router.border.links["us"].refresh()
        made.wires["eu", "us"].cut()
        await made["eu"].until(lambda: made["eu"].peer("us").state == "down")
        place.write_bytes(authority.certificate.read_bytes())
        await made["eu"].until(lambda: made["eu"].peer("us").state == "up")


async def test_a_certificate_of_the_installations_ca_is_enough_without_a_token(tmp_path, authority, listener_tls):
    settings = {**listener_tls, "internal_tls_ca": authority.certificate, "region_token_file": None}
    plan = {"settings": settings, "ca": authority.certificate, "place": "https://127.0.0.1"}
    async with world(tmp_path, {"eu": 0, "us": 1}, **plan) as made:
        assert (await made["eu"].ask()).headers["x-tandem-region"] == "us"


async def test_a_region_without_token_file_and_certificates_lets_nobody_in(tmp_path):
    async with world(tmp_path, {"eu": 1}, settings={"region_token_file": None}) as made:
        answer = await made["eu"].internal("/internal/v1/region/ping", "anything")
        assert (answer.status, answer.json["error"]["code"]) == (401, "regions_closed")


async def test_tokens_may_come_after_the_router(tmp_path):
    async with world(tmp_path, {"eu": 1}, settings={"region_token_file": tmp_path / "later"}) as made:
        assert (await made["eu"].internal("/internal/v1/region/ping", "t")).status == 401
        (tmp_path / "later").write_text("t\n")
        made["eu"].router.border.tokens.refresh()
        assert (await made["eu"].internal("/internal/v1/region/ping", "t")).status == 200


def test_urls_of_regions():
    assert parse_url("https://[fd00::1]:8443") == Endpoint("fd00::1", 8443, True)
    assert parse_url("http://eu.example") == Endpoint("eu.example", 80, False)
    assert parse_url("https://eu.example").authority == b"eu.example:443"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"<html>", "no digest"),
        (b'{"region": "us", "fleets": {"a/b": {"servedName": "m", "freeSlots": -1}}}', "freeSlots"),
        (b'{"region": "us", "fleets": {"a/b": {"servedName": "m", "queuedTokens": 1e999}}}', "no digest"),
        (b'{"region": "us", "v": 4}', "version 4"),
        (b'{"region": "eu"}', "this very region"),
        (b'{"region": "ap"}', "'ap'"),
    ],
)
def test_what_is_not_a_digest_of_the_peer_is_refused_in_words(line, why):
    with pytest.raises(NotThePeerError, match=why):
        read_digest(line, "us", "eu")


def test_a_digest_of_the_next_release_is_understood():
    line = {"region": "us", "v": 2, "brandNew": {"x": 1}, "fleets": {"a/b": {"servedName": "m", "mood": "good"}}}
    assert read_digest(json.dumps(line).encode(), "us", "eu").fleets["a/b"].served_name == "m"


async def test_lines_are_taken_however_they_are_cut_and_only_until_the_last():
    taken = []

    def take(line):
        taken.append(line)
        return line != b"end"

    lines = DigestLines(take)
    for piece in (b"on", b"e\ntw", b"o\n\nend\nmore\n"):
        lines.on_body(piece)
    await lines.ended
    assert taken == [b"one", b"two", b"end"]


async def test_a_stream_that_never_ends_its_line_is_cut():
    lines = DigestLines(lambda _line: True)
    for _ in range(9):
        lines.on_body(b"x" * (1 << 20))
    with pytest.raises(UpstreamError, match="too long"):
        await asyncio.wait_for(lines.ended, 5)
