"""Tokens: what opens, and every known way to forge one."""

import base64
import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from unit.router.gateway.issuing import ACME, ISSUER, NOW_S, Signer, issuer_of

from tandem_router.gateway.config import GatewayConfigError, Tenant
from tandem_router.gateway.signed_tokens import KeySet, SignedTokens, TokenRefusedError, UnknownKeyError


def checker(*signers, **fields):
    return SignedTokens([issuer_of(*signers, **fields)], [ACME, Tenant(name="free")])


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_a_token_of_a_listed_algorithm_opens(algorithm):
    signer = Signer(algorithm=algorithm)
    principal = checker(signer).check(signer.sign(), NOW_S)
    assert principal.tenant is ACME
    assert ISSUER in principal.credential


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def test_a_token_narrows_the_tenants_rights_and_never_widens_them():
    signer = Signer()
    tokens = checker(signer, models_claim="models")
    assert tokens.check(signer.sign(models=["llama", "secret"]), NOW_S).models == {"llama"}
    assert tokens.check(signer.sign(), NOW_S).models == set()  # a configured claim that is missing allows nothing


def test_an_expired_token_is_refused_also_when_it_was_seen_before():
    signer = Signer()
    tokens = checker(signer)
    token = signer.sign(exp=NOW_S + 10)
    tokens.check(token, NOW_S + 39)  # within the leeway of 30 s
    with pytest.raises(TokenRefusedError, match="expired"):
        tokens.check(token, NOW_S + 41)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "others"}, "audience"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"exp": None}, "lacks"),
        ({"aud": None}, "lacks|audience"),
        ({"nbf": NOW_S + 3600}, "nbf"),
        ({"exp": True}, "not a time|wrong"),
        ({"tenant": "nobody"}, "tenant"),
        ({"tenant": ["acme"]}, "tenant"),
        ({"tenant": None}, "tenant"),
    ],
)
def test_a_token_with_wrong_claims_is_refused(claims, why):
    signer = Signer()
    with pytest.raises(TokenRefusedError, match=why):
        checker(signer).check(signer.sign(**claims), NOW_S)


def test_the_algorithm_none_is_refused():
    signer = Signer()
    unsigned = jwt.encode(
        {"iss": ISSUER, "aud": "tandem", "exp": NOW_S + 60, "tenant": "acme"}, None, "none", {"kid": "k1"}
    )
    with pytest.raises(TokenRefusedError, match="algorithm"):
        checker(signer).check(unsigned.encode(), NOW_S)


def test_a_public_key_used_as_a_shared_secret_is_refused():
    signer = Signer(algorithm="RS256")
    secret = signer.private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = signer.sign().split(b".")[1]
    signed = part(b'{"alg":"HS256","typ":"JWT","kid":"k1"}') + b"." + body
    forged = signed + b"." + part(hmac.digest(secret, signed, "sha256"))
    with pytest.raises(TokenRefusedError, match="algorithm"):
        checker(signer).check(forged, NOW_S)


def test_an_algorithm_of_another_family_than_the_key_is_refused():
    shown, other = Signer(algorithm="RS256"), Signer(algorithm="ES256")
    with pytest.raises(TokenRefusedError, match="fit"):
        checker(shown).check(other.sign(), NOW_S)


def test_a_key_bound_to_one_algorithm_serves_no_other():
    signer = Signer(algorithm="RS256")
    signer.public["alg"] = "RS256"
    signer.algorithm = "PS256"
    with pytest.raises(TokenRefusedError, match="fit"):
        checker(signer, algorithms=["RS256", "PS256"]).check(signer.sign(), NOW_S)


@pytest.mark.parametrize("kid", ["", "../../etc/passwd", "k1' OR '1'='1", "k1\x00", "K1", None, 1])
def test_a_strange_kid_is_an_unknown_key_and_nothing_else(kid):
    signer = Signer()
    header = part(json.dumps({"alg": "ES256", "typ": "JWT", "kid": kid}).encode())
    token = header + b"." + signer.sign().split(b".", 1)[1]
    with pytest.raises(TokenRefusedError):
        checker(signer).check(token, NOW_S)


def test_a_key_carried_in_the_token_is_not_believed():
    signer, evil = Signer(), Signer(kid="evil")
    token = evil.sign({"jwk": evil.public, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x"})
    with pytest.raises(UnknownKeyError):
        checker(signer).check(token, NOW_S)


def test_a_token_of_one_issuer_signed_by_another_is_refused():
    ours, theirs = Signer(kid="same"), Signer(kid="same")
    tokens = SignedTokens([issuer_of(ours), issuer_of(theirs, issuer="https://two.example")], [ACME])
    with pytest.raises(TokenRefusedError, match="signature"):
        tokens.check(theirs.sign(), NOW_S)


def test_a_withdrawn_key_opens_nothing_from_that_moment():
    old, new = Signer(kid="old"), Signer(kid="new")
    tokens = checker(old)
    token = old.sign()
    tokens.check(token, NOW_S)
    tokens.set_keys(ISSUER, KeySet({"keys": [new.public]}))
    with pytest.raises(UnknownKeyError):
        tokens.check(token, NOW_S)
    tokens.check(new.sign(), NOW_S)


@pytest.mark.parametrize(
    "junk", [b"", b"..", b"a.b.c", b"\xff.\xff.\xff", b"e30.e30.", b"x" * 9000 + b".a.b", b"[" * 5000 + b".a.b"]
)
def test_junk_is_refused(junk):
    with pytest.raises(TokenRefusedError):
        checker(Signer()).check(junk, NOW_S)


def test_a_flipped_bit_anywhere_is_refused():
    signer = Signer()
    tokens, token = checker(signer), signer.sign()
    for at in range(0, len(token), 7):
        bent = token[:at] + bytes([token[at] ^ 4]) + token[at + 1 :]
        try:
            principal = tokens.check(bent, NOW_S)
        except TokenRefusedError:
            continue
        # The last character of a part may carry spare bits of base64 that mean nothing.
        assert principal.tenant is ACME
        assert token[at + 1 : at + 2] in (b".", b"")


def test_a_private_key_in_the_jwks_is_refused_with_the_reason():
    document = {"keys": [Signer().public | {"d": "AAAA"}]}
    with pytest.raises(GatewayConfigError, match="private"):
        KeySet(document)


@pytest.mark.parametrize(
    "document", [{}, {"keys": []}, {"keys": "x"}, {"keys": [{"kid": "a", "kty": "oct"}]}, {"keys": [1]}]
)
def test_a_jwks_without_usable_keys_is_refused(document):
    with pytest.raises(GatewayConfigError, match="JWKS"):
        KeySet(document)
