"""TLS toward clients and workers, IPv6, and several processes on one port."""

import asyncio
import datetime
import os
import ssl
from dataclasses import replace

import pytest
from unit.router.scripted import Engine, ask, chat, connected, exchange, http_post, pair, read_answer, running

from cluster.pki import CertificateAuthority
from tandem_router.app import Router, StartError
from tandem_router.http1.tls import ServerTls, TlsFileError
from tandem_router.settings import parse_settings


@pytest.fixture
def authority(tmp_path):
    return CertificateAuthority(tmp_path / "pki", datetime.datetime.now(datetime.UTC))


@pytest.fixture
def server(authority):
    return authority.issue_server("router", ("router.test",), ("127.0.0.1",))


def trusting(authority):
    return ssl.create_default_context(cafile=str(authority.certificate))


async def test_clients_are_served_over_tls(tmp_path, authority, server):
    async with running(tmp_path, pair(), tls_cert=server.certificate, tls_key=server.key) as bench:
        for stream in (False, True):
            got = await exchange(bench, http_post(chat(stream=stream)), tls=trusting(authority))
            assert (got.status, got.is_whole) == (200, True)
        bench.assert_idle()


async def test_a_client_that_leaves_a_tls_connection_closes_its_workers(tmp_path, authority, server):
    async def begin(seen, channel):
        await channel.begin_stream()
        await channel.event({"choices": []})
        await seen.closed.wait()

    engines = [Engine("w0", "mixed", begin)]
    async with running(tmp_path, engines, tls_cert=server.certificate, tls_key=server.key) as bench:
        async with connected(bench, trusting(authority)) as (reader, writer):
            writer.write(http_post(chat(stream=True)))
            await reader.readuntil(b"data: ")
        await asyncio.wait_for(bench["w0"].seen[0].closed.wait(), 5)
        await bench.idle()
        assert bench.outcomes() == {"client_gone": 1}


async def test_a_refusal_reaches_a_tls_client(tmp_path, authority, server):
    async with running(tmp_path, pair(), tls_cert=server.certificate, tls_key=server.key) as bench:
        got = await exchange(bench, b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", tls=trusting(authority))
        assert got.status == 400


async def test_a_plain_client_of_a_tls_listener_harms_nobody(tmp_path, authority, server):
    async with running(tmp_path, pair(), tls_cert=server.certificate, tls_key=server.key) as bench:
        async with connected(bench) as (reader, writer):
            writer.write(http_post(chat()))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asyncio.wait_for(read_answer(reader), 5)
        assert (await exchange(bench, http_post(chat()), tls=trusting(authority))).status == 200


async def test_workers_are_spoken_to_over_tls_and_their_admin_ports_are_not(tmp_path, authority):
    worker = authority.issue_server("worker", (), ("127.0.0.1",))
    context = ServerTls(worker.certificate, worker.key).context
    engines = [Engine("p0", "prefill", tls=context), Engine("d0", "decode")]
    async with running(tmp_path, engines, upstream_ca=authority.certificate) as bench:
        assert (await ask(bench)).headers["x-served-by"] == "p0,d0"
        assert (await ask(bench)).status == 200
        assert bench["p0"].connections == 1  # kept open


@pytest.mark.parametrize("name", [None, "other.test"])
async def test_a_worker_of_another_authority_or_name_is_not_trusted(tmp_path, authority, name):
    other = CertificateAuthority(tmp_path / "other", datetime.datetime.now(datetime.UTC))
    pair_of = (authority if name else other).issue_server("worker", ("worker.test",), ("127.0.0.1",))
    engines = [
        Engine("p0", "prefill", tls=ServerTls(pair_of.certificate, pair_of.key).context),
        Engine("d0", "decode"),
    ]
    settings = {"upstream_ca": authority.certificate, "upstream_server_name": name}
    async with running(tmp_path, engines, **settings) as bench:
        assert (await ask(bench)).headers["x-served-by"] == "d0"
        assert bench["p0"].seen == []
        assert bench.routes() == {"prefill_failed": 1}


async def test_a_tls_worker_without_an_authority_is_never_asked_in_the_clear(tmp_path, authority, server):
    engines = [Engine("p0", "prefill", tls=ServerTls(server.certificate, server.key).context), Engine("d0", "decode")]
    async with running(tmp_path, engines) as bench:
        assert (await ask(bench)).headers["x-served-by"] == "d0"
        assert bench["p0"].connections == 0


async def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path, authority, server):
    followed = ServerTls(server.certificate, server.key)
    newer = authority.issue_server("newer", ("newer.test",), ("127.0.0.1",))
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=followed.context)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        replace_file(newer.certificate.read_bytes(), server.certificate)
        with pytest.raises(TlsFileError, match=r"router\.crt"):
            followed.refresh()
        assert await subject_of(authority, port) == "router"
        replace_file(newer.key.read_bytes(), server.key)
        followed.refresh()
        assert await subject_of(authority, port) == "newer"


def replace_file(content, path):
    was_ns = path.stat().st_mtime_ns
    path.chmod(0o600)
    path.write_bytes(content)
    os.utime(path, ns=(was_ns + 10**9, was_ns + 10**9))


async def subject_of(authority, port):
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(authority))
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return dict(part[0] for part in certificate["subject"])["commonName"]


@pytest.mark.parametrize("files", [("absent.crt", "absent.key"), ("router.crt", "router.crt")])
def test_what_is_no_certificate_is_refused_by_name(server, files):
    folder = server.certificate.parent
    with pytest.raises(TlsFileError, match=files[0]):
        ServerTls(folder / files[0], folder / files[1])


def test_half_of_a_pair_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--tls-cert", "x"], {})
    assert "--tls-cert and --tls-key belong together" in capsys.readouterr().err


async def test_everything_works_over_ipv6(tmp_path):
    engines = [Engine("p0", "prefill", address="::1"), Engine("d0", "decode", address="::1")]
    async with running(tmp_path, engines, host="::1") as bench:
        assert bench.router.address == "::1"
        got = await ask(bench, stream=True)
        assert (got.status, got.is_whole) == (200, True), got.body
        assert bench["d0"].seen[0].headers["host"] == f"[::1]:{bench['d0'].http_port}"


async def test_two_processes_worth_of_routers_share_a_port_when_asked_to(tmp_path):
    async with running(tmp_path, pair(), reuse_port=True) as bench:
        settings = replace(bench.router._settings, port=bench.router.port)
        second = Router(settings)
        await second.start()
        try:
            answers = [await ask(bench) for _ in range(24)]
            assert {got.status for got in answers} <= {200, 503}  # the second may still ask its workers
            assert second.port == bench.router.port
        finally:
            await second.close()
        lonely = Router(replace(settings, reuse_port=False))
        with pytest.raises(StartError, match="cannot listen"):
            await lonely.start()
        await lonely.close()
