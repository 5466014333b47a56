"""`tandem key`: makes an API key, and the lines that belong into the tenants file."""

import argparse
import re
import secrets
import sys

from tandem_router.gateway.api_keys import hash_api_key

PREFIX = "tdm-"
KEY_BYTES = 32  # 256 random bits need no slow hash: nobody guesses them, and each request pays for the hash


def make_api_key() -> tuple[str, str]:
    """A new key, and the hash that belongs into the tenants file."""
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return key, hash_api_key(key)


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags of `tandem key`."""
    parser.description = (
        "Make an API key. The key goes to its user and is stored nowhere; the printed lines go under the tenant's "
        "apiKeys in the tenants file (docs/tenants.md)."
    )
    parser.epilog = "example:\n  tandem key ci --expires 2027-06-01T00:00:00Z"
    parser.add_argument("id", help="name of the key for you and for logs, such as the system that uses it")
    parser.add_argument("--expires", metavar="TIME", help="RFC 3339, such as 2027-06-01T00:00:00Z (default: never)")


def run(options: argparse.Namespace) -> int:
    """Print the key on standard error, for its user, and the tenants file's lines on standard output."""
    if not re.fullmatch(r"[\w .@/-]{1,512}", options.id):
        print("error: id: use letters, digits, spaces and . @ / - _ only", file=sys.stderr)
        return 2
    if options.expires is not None and not _TIME.fullmatch(options.expires):
        print("error: --expires: write it like 2027-06-01T00:00:00Z", file=sys.stderr)
        return 2
    key, digest = make_api_key()
    expires = "" if options.expires is None else f", expires: {options.expires}"
    print(f"key, shown only now: {key}", file=sys.stderr)
    print(f'- {{id: "{options.id}", hash: "{digest}"{expires}}}')
    return 0


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)")
