"""CPU that the gateway costs a request: credentials, limits, headers and settlement, without the sockets.

make bench-gateway
"""

import json
import statistics
import time
from collections.abc import Callable

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tandem_router.gateway.config import GatewayConfig
from tandem_router.gateway.gate import Gate
from tandem_router.gateway.new_key import make_api_key
from tandem_router.http1.messages import Headers
from tandem_router.token_counts import TokenCounts

TENANTS, KEYS_EACH = 1000, 5
ROUNDS, REQUESTS = 7, 20_000
FIRST_SIGHTS = 500
ISSUER = "https://id.example.com"
COUNTS = TokenCounts(900, 0, 200)


def make_gate() -> tuple[Gate, list[str], ec.EllipticCurvePrivateKey]:
    """A gate of 1,000 tenants with five keys each, one issuer, and every limit set."""
    signer = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(signer.public_key())) | {"kid": "k"}
    keys, tenants = [], []
    for number in range(TENANTS):
        made = [make_api_key() for _ in range(KEYS_EACH)]
        keys.append(made[0][0])
        tenants.append(
            {"name": f"t{number}", "apiKeys": [{"id": "k", "hash": digest} for _, digest in made],
             "requestsPerMinute": 10**9, "tokensPerMinute": 10**12, "concurrency": 10**6}
        )  # fmt: skip
    issuers = [{"issuer": ISSUER, "audience": "tandem", "jwks": {"keys": [public]}}]
    return Gate(GatewayConfig.model_validate({"tenants": tenants, "issuers": issuers}), 0.0), keys, signer


def visit(gate: Gate, headers: Headers, now_s: float) -> None:
    """All that the gateway does for one request."""
    principal = gate.authenticate(headers, now_s)
    principal.may_use("m")
    account = gate.enter(principal, 1000, now_s)
    account.answer_headers(now_s)
    account.end("ok", COUNTS, now_s)


def bearer(secret: str) -> Headers:
    """Headers as a client sends them."""
    return [(b"Host", b"x"), (b"Content-Type", b"application/json"), (b"Authorization", b"Bearer " + secret.encode())]


def measure(work: Callable[[int], None], count: int) -> list[float]:
    """CPU microseconds per call, one value a round."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for number in range(count):
            work(number)
        rounds.append((time.process_time() - began) * 1e6 / count)
    return rounds


def main() -> None:
    """Print the table."""
    gate, keys, signer = make_gate()
    now = time.time()

    def token(number: int) -> str:
        claims = {"iss": ISSUER, "aud": "tandem", "exp": now + 3600, "tenant": f"t{number % TENANTS}", "jti": number}
        return jwt.encode(claims, signer, "ES256", {"kid": "k"})

    by_key = [bearer(key) for key in keys]
    by_token = [bearer(token(number)) for number in range(TENANTS)]
    unseen = iter([bearer(token(10_000 + number)) for number in range(FIRST_SIGHTS * ROUNDS)])
    rows = {
        "nobody is asked (baseline: one header search)": measure(lambda n: gate_open(by_key[n % TENANTS]), REQUESTS),
        "API key": measure(lambda n: visit(gate, by_key[n % TENANTS], now), REQUESTS),
        "token seen before": measure(lambda n: visit(gate, by_token[n % TENANTS], now), REQUESTS),
        "token at first sight (ES256)": measure(lambda _: visit(gate, next(unseen), now), FIRST_SIGHTS),
    }
    print(f"{TENANTS} tenants, {TENANTS * KEYS_EACH} keys; CPU µs a request, median (lowest to highest) of {ROUNDS}")
    for name, rounds in rows.items():
        print(f"  {name:48} {statistics.median(rounds):7.2f}  ({min(rounds):.2f} to {max(rounds):.2f})")


def gate_open(headers: Headers) -> None:
    """What a router without tenants does."""
    next((value for key, value in headers if key.lower() == b"authorization"), None)


if __name__ == "__main__":
    main()
