"""The tenants file, the gate, and its replacement while requests run."""

import os

import pytest
from unit.router.gateway.issuing import AUDIENCE, ISSUER, NOW_S, Signer

from tandem_cli.app import main
from tandem_router.errors import RateLimitedError, UnauthorizedError
from tandem_router.gateway.api_keys import hash_api_key
from tandem_router.gateway.config import GatewayConfigError, parse_gateway_config
from tandem_router.gateway.gate import Gate, TokenCounts
from tandem_router.gateway.jwks import JwksKeeper
from tandem_router.gateway.limits import Share
from tandem_router.gateway.new_key import make_api_key
from tandem_router.gateway.salts import cache_salt, salt_basis
from tandem_router.gateway.service import Gateway

KEY = "tdm-test-key-of-acme"
FILE = f"""
tenants:
- name: acme
  apiKeys:
  - {{id: ci, hash: "{hash_api_key(KEY)}", expires: 2027-06-01T00:00:00Z}}
  models: [llama]
  requestsPerMinute: 60
  tokensPerMinute: 1000
  concurrency: 2
- name: guests
  requestsPerMinute: 6
"""


def gate(text=FILE, **fields):
    return Gate(parse_gateway_config(text), 0.0, **fields)


def bearer(key):
    return [(b"Authorization", b"Bearer " + key.encode())]


def test_a_key_opens_its_tenant():
    principal = gate().authenticate(bearer(KEY), NOW_S)
    assert (principal.tenant.name, principal.credential) == ("acme", "key ci")
    assert principal.may_use("llama")
    assert not principal.may_use("mistral")


def test_the_header_of_anthropics_clients_opens_as_well():
    assert gate().authenticate([(b"X-Api-Key", KEY.encode())], NOW_S).tenant.name == "acme"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "credentials_missing"),
        ([(b"authorization", b"Basic YTpi")], "invalid_authorization"),
        ([(b"authorization", b"Bearer ")], "invalid_authorization"),
        ([(b"authorization", b"Bearer wrong")], "invalid_api_key"),
        ([(b"authorization", b"Bearer " + b"x" * 60_000)], "invalid_api_key"),
        ([(b"authorization", b"Bearer a.b.c")], "invalid_api_key"),
        ([(b"x-api-key", b"\xff\x00")], "invalid_api_key"),
        # The right key in one header does not mend a wrong one in the header that counts.
        ([(b"authorization", b"Bearer wrong"), (b"x-api-key", KEY.encode())], "invalid_api_key"),
    ],
)
def test_other_credentials_open_nothing(headers, code):
    with pytest.raises(UnauthorizedError) as caught:
        gate().authenticate(headers, NOW_S)
    assert caught.value.code == code
    assert caught.value.headers == [(b"WWW-Authenticate", b"Bearer")]
    assert KEY not in caught.value.message


def test_an_expired_key_is_told_apart_from_an_unknown_one():
    with pytest.raises(UnauthorizedError) as caught:
        gate().authenticate(bearer(KEY), 2_000_000_000.0)
    assert caught.value.code == "api_key_expired"


def test_two_keys_serve_during_a_rotation():
    new, new_hash = make_api_key()
    text = FILE.replace("  models: [llama]", f'  - {{id: new, hash: "{new_hash}"}}\n  models: [llama]')
    both = gate(text)
    assert both.authenticate(bearer(KEY), NOW_S).tenant == both.authenticate(bearer(new), NOW_S).tenant


def test_the_command_line_makes_a_key_that_opens(capsys):
    assert main(["key", "night batch", "--expires", "2027-06-01T00:00:00Z"]) == 0
    printed = capsys.readouterr()
    key = printed.err.split()[-1]
    made = gate(f"tenants:\n- name: acme\n  apiKeys:\n  {printed.out}")
    assert made.authenticate(bearer(key), NOW_S).credential == "key night batch"
    assert key not in printed.out


@pytest.mark.parametrize("arguments", [["key", 'a"b'], ["key", "a", "--expires", "tomorrow"]])
def test_the_command_line_names_what_is_wrong(arguments, capsys):
    assert main(arguments) == 2
    assert "error:" in capsys.readouterr().err


def test_a_named_tenant_serves_those_without_credentials():
    assert gate(FILE + "anonymous: guests\n").authenticate([], NOW_S).tenant.name == "guests"


def test_a_limit_is_refused_with_what_openais_clients_read():
    made = gate()
    principal = made.authenticate(bearer(KEY), NOW_S)
    visits = [made.enter(principal, 10, 0.0) for _ in range(2)]
    with pytest.raises(RateLimitedError, match="concurrent") as caught:
        made.enter(principal, 10, 0.0)
    assert caught.value.retry_after_s == 1
    assert dict(caught.value.headers)[b"x-ratelimit-remaining-requests"] == b"58"
    visits[0].end("ok", TokenCounts(600, 0, 400), 0.0)
    with pytest.raises(RateLimitedError, match="tokens") as caught:
        made.enter(principal, 10, 0.0)
    assert caught.value.retry_after_s > 0
    usage = made.accounts["acme"].usage.to_json()
    assert usage["tokens"] == {"prompt": 600, "cached": 0, "completion": 400}
    assert usage["limited"] == {"concurrency": 1, "tokens": 1}


def test_a_new_file_takes_over_and_what_was_used_stays_used():
    old = gate()
    visit = old.enter(old.authenticate(bearer(KEY), NOW_S), 500, 0.0)
    new = gate(FILE.replace("concurrency: 2", "concurrency: 1"), previous=old)
    with pytest.raises(RateLimitedError, match="concurrent"):
        new.enter(new.authenticate(bearer(KEY), NOW_S), 1, 0.0)
    visit.end("ok", TokenCounts(500, 0, 0), 0.0)
    new.enter(new.authenticate(bearer(KEY), NOW_S), 1, 0.0)
    assert new.accounts["acme"].limits.tokens.level(0.0) == 499


def test_a_tenant_who_was_removed_between_login_and_entry_is_refused():
    old = gate()
    principal = old.authenticate(bearer(KEY), NOW_S)
    new = gate("tenants: [{name: guests}]", previous=old)
    with pytest.raises(UnauthorizedError):
        new.enter(principal, 1, 0.0)


def test_two_replicas_share_every_limit():
    made = gate()
    made.set_share(Share(1, 2), 0.0)
    limits = made.accounts["acme"].limits
    assert (limits.requests.per_minute, limits.tokens.per_minute, limits.concurrency) == (30, 500, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file"),
        ("tenants: []", "tenants"),
        ("tenants: [{name: acme}]\nanonymus: acme", "anonymus"),
        ("tenants: [{name: acme}]\nanonymous: nobody", "nobody"),
        ("tenants: [{name: acme}, {name: acme}]", "twice"),
        ("tenants: [{name: acme, apiKeys: [{id: a, hash: tdm-plain-key}]}]", r"apiKeys\[0\].hash"),
        ("tenants: [{name: acme, requestsPerMinute: 0}]", "requestsPerMinute"),
        ("tenants: [{name: acme, requestsPerMinute: -5}]", "requestsPerMinute"),
        ("tenants: [{name: acme, weight: .nan}]", "weight"),
        ("tenants: [{name: acme, priority: 101}]", "priority"),
        ("tenants: [{name: 'Acme Inc'}]", r"tenants\[0\].name"),
        ("tenants: [{name: acme}]\nissuers: [{issuer: a, audience: b}]", "exactly one"),
        ("tenants: [{name: acme}]\nissuers: [{issuer: a, audience: b, jwksUrl: 'http://plain'}]", "jwksUrl"),
        ("tenants: [{name: acme}]\nissuers: [{issuer: a, audience: b, jwks: {}, algorithms: [HS256]}]", "algorithms"),
        ("tenants: [{name: acme}]\nissuers: [{issuer: a, audience: b, jwks: {}, algorithms: [none]}]", "algorithms"),
        ("tenants: {a: [", "YAML at line"),
        ("!!python/object/apply:os.system [id]", "YAML"),
        ("x" * 2_000_000, "bytes"),
    ],
)
def test_a_bad_file_is_refused_whole_with_the_field(text, why):
    with pytest.raises(GatewayConfigError, match=why):
        parse_gateway_config(text)


def test_a_bad_file_never_shows_its_content_in_the_error():
    with pytest.raises(GatewayConfigError) as caught:
        parse_gateway_config("tenants: [{name: acme, apiKeys: [{id: a, hash: tdm-secret}]}]")
    assert "tdm-secret" not in str(caught.value)


def test_salts_part_tenants_and_join_domains():
    tenants = parse_gateway_config(
        "tenants: [{name: a}, {name: b}, {name: c, cacheDomain: x}, {name: d, cacheDomain: x}, {name: x}]"
    ).tenants
    a, b, c, d, x = (cache_salt(b"k" * 32, salt_basis(tenant)) for tenant in tenants)
    assert c == d
    assert len({a, b, c, x}) == 4
    assert a != cache_salt(b"j" * 32, salt_basis(tenants[0]))


def test_a_file_is_followed_and_a_bad_one_leaves_the_old_one_serving(tmp_path):
    file = tmp_path / "tenants.yaml"
    file.write_text(FILE)
    gateway = Gateway(file, clock=lambda: 0.0, wall=lambda: NOW_S)
    assert gateway.authenticate(bearer(KEY)).tenant.name == "acme"
    replace(file, "tenants: [{name: acme, nonsense: 1}]")
    gateway.follow()
    assert gateway.authenticate(bearer(KEY)).tenant.name == "acme"
    assert "nonsense" in gateway.refused
    file.unlink()
    gateway.follow()
    assert gateway.authenticate(bearer(KEY)).tenant.name == "acme"
    replace(file, FILE.replace(hash_api_key(KEY), hash_api_key("another")))
    gateway.follow()
    assert gateway.refused is None
    with pytest.raises(UnauthorizedError):
        gateway.authenticate(bearer(KEY))
    assert gateway.failed_logins == 1
    assert gateway.authenticate(bearer("another")).tenant.name == "acme"


def test_a_router_without_a_usable_file_does_not_start(tmp_path):
    with pytest.raises(GatewayConfigError, match=r"tenants\.yaml"):
        Gateway(tmp_path / "tenants.yaml", clock=lambda: 0.0)


def test_without_a_file_everybody_may_ask_whatever_they_show():
    gateway = Gateway(None, clock=lambda: 0.0)
    assert gateway.authenticate(bearer("sk-anything")).tenant.name == "default"


def replace(file, text):
    """As a Secret's volume does it: another file in its place."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


ISSUERS = f"""
tenants: [{{name: acme}}]
issuers: [{{issuer: "{ISSUER}", audience: {AUDIENCE}, jwksUrl: "https://id.example.com/jwks"}}]
"""


async def test_a_rotated_signing_key_is_fetched_when_a_token_names_it_but_not_at_every_forgery():
    old, new = Signer(kid="old"), Signer(kid="new")
    shown, asked, now = [old.public], [], [0.0]

    async def fetch(url):
        asked.append(url)
        return {"keys": list(shown)}

    made = gate(ISSUERS)
    keeper = JwksKeeper(made, lambda: now[0], fetch)
    await keeper.refresh()
    assert made.authenticate(bearer(old.sign().decode()), NOW_S).tenant.name == "acme"
    shown[:] = [new.public]
    for second in range(1, 121):
        now[0] = float(second)
        keeper.hurry()  # forged tokens all the time
        await keeper.refresh()
    assert made.authenticate(bearer(new.sign().decode()), NOW_S).tenant.name == "acme"
    with pytest.raises(UnauthorizedError):
        made.authenticate(bearer(old.sign().decode()), NOW_S)
    assert len(asked) <= 5


async def test_an_issuer_that_cannot_be_reached_keeps_its_last_keys():
    signer, now, answers = Signer(), [0.0], [{}]
    answers[0] = {"keys": [signer.public]}

    async def fetch(url):
        return answers[0]

    made = gate(ISSUERS)
    keeper = JwksKeeper(made, lambda: now[0], fetch)
    await keeper.refresh()
    answers[0], now[0] = {"keys": []}, 700.0
    await keeper.refresh()
    assert made.authenticate(bearer(signer.sign().decode()), NOW_S).tenant.name == "acme"
