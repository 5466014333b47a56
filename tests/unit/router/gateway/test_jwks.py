"""Keys of an issuer over real HTTPS: trusted or not, moved, too large, slow to come, rotated."""

import asyncio
import datetime
import json
import ssl

import pytest
from unit.router.gateway.issuing import ISSUER, Signer
from unit.router.scripted import Channel, read_request

from cluster.pki import CertificateAuthority
from tandem_router.gateway.config import parse_gateway_config
from tandem_router.gateway.gate import Gate
from tandem_router.gateway.jwks import MAX_JWKS_BYTES, JwksError, JwksKeeper, fetch_jwks
from tandem_router.gateway.signed_tokens import TokenRefusedError


class Issuer:
    """An issuer's HTTPS server; `answer` is (status, body, headers)."""

    def __init__(self, context):
        self.context = context
        self.answer = (200, {"keys": []}, "")
        self.asked = 0

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.url = f"https://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/jwks.json"

    async def _serve(self, reader, writer):
        try:
            await read_request(reader)
            self.asked += 1
            await Channel(writer).json(*self.answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
def authority(tmp_path):
    return CertificateAuthority(tmp_path / "pki", datetime.datetime.now(datetime.UTC))


@pytest.fixture
async def issuer(authority, monkeypatch):
    pair = authority.issue_server("issuer", (), ("127.0.0.1",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    made = Issuer(context)
    await made.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))  # as an image that trusts a company's own CA
    yield made
    made.server.close()


async def test_keys_are_fetched_over_tls_that_is_trusted(issuer):
    signer = Signer()
    issuer.answer = (200, {"keys": [signer.public]}, "")
    assert (await fetch_jwks(issuer.url))["keys"][0]["kid"] == signer.kid


async def test_an_issuer_whose_certificate_nobody_trusts_brings_no_keys(issuer, tmp_path, monkeypatch):
    other = CertificateAuthority(tmp_path / "other", datetime.datetime.now(datetime.UTC))
    monkeypatch.setenv("SSL_CERT_FILE", str(other.certificate))
    with pytest.raises(JwksError, match="ConnectError"):
        await fetch_jwks(issuer.url)
    assert issuer.asked == 0


@pytest.mark.parametrize(
    "answer",
    [
        (302, {}, "location: https://127.0.0.1:1/evil\r\n"),
        (500, {}, ""),
        (200, ["keys"], ""),
        (200, {"keys": "x" * MAX_JWKS_BYTES}, ""),
    ],
    ids=["moved", "broken", "no object", "too large"],
)
async def test_what_is_no_set_of_keys_is_refused(issuer, answer):
    issuer.answer = answer
    with pytest.raises(JwksError):
        await fetch_jwks(issuer.url)


async def test_a_rotated_key_is_taken_over_and_a_withdrawn_one_opens_nothing(issuer):
    old, new, now_s = Signer("old"), Signer("new"), [0.0]
    text = f"tenants: [{{name: acme}}]\nissuers: [{{issuer: '{ISSUER}', audience: tandem, jwksUrl: '{issuer.url}'}}]"
    gate = Gate(parse_gateway_config(text), 0.0)
    keeper = JwksKeeper(gate, lambda: now_s[0])
    issuer.answer = (200, {"keys": [old.public]}, "")
    await keeper.refresh()
    assert gate.tokens.check(old.sign(), 1_800_000_000.0).tenant.name == "acme"
    issuer.answer = (200, {"keys": [new.public]}, "")
    now_s[0] = 700.0
    await keeper.refresh()
    assert gate.tokens.check(new.sign(), 1_800_000_000.0).tenant.name == "acme"
    with pytest.raises(TokenRefusedError):
        gate.tokens.check(old.sign(), 1_800_000_000.0)
    issuer.answer = (500, json.loads("{}"), "")
    now_s[0] = 1400.0
    await keeper.refresh()
    assert gate.tokens.check(new.sign(), 1_800_000_000.0).tenant.name == "acme", "the last keys stay"
