"""Invented text that depends on the text before it and on nothing else. Pure.

So a prefill and a decode worker together say what a mixed worker would have said, and an answer that is continued
elsewhere goes on as it would have gone on here.
"""

import hashlib
from collections.abc import Iterator

TOKEN_BYTES = 4  # of prompt text; about what tokenizers of large models reach in English
BLOCK_TOKENS = 16
BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES
_DIGEST_BYTES = 8

_VOCABULARY = """
and but when then while near the a one this that old small quiet bright rider river harbour lamp road hill city
clock boat garden window winter morning evening story answer question word page map wheel net tide bread stone
goes comes waits turns reads writes counts carries mends opens follows remembers slowly together again at last , .
"""
WORDS = tuple(_VOCABULARY.split())


def count_tokens(text: str) -> int:
    """Tokens of a prompt, at least one."""
    return max(1, -(-len(text.encode()) // TOKEN_BYTES))


def generate_words(prompt: str) -> Iterator[str]:
    """The endless answer to `prompt`, token by token."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=_DIGEST_BYTES)
    while True:
        word = _spaced(WORDS[int.from_bytes(digest.copy().digest()) % len(WORDS)])
        digest.update(word.encode())
        yield word


def hash_blocks(prompt: str, salt: str = "") -> list[bytes]:
    """Chained hashes of the prompt's whole blocks of BLOCK_TOKENS tokens."""
    data = prompt.encode()
    parent, hashes = salt.encode(), []
    for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
        parent = hashlib.blake2b(parent + data[start : start + BLOCK_BYTES], digest_size=_DIGEST_BYTES).digest()
        hashes.append(parent)
    return hashes


def _spaced(word: str) -> str:
    return word if word in ",." else f" {word}"
