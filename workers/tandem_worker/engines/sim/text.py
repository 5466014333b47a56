"""Invented text that depends on the text before it and on nothing else. Pure.

So a prefill and a decode worker together say what a mixed worker would have said, and an answer that is continued
elsewhere goes on as it would have gone on here.
"""

import hashlib
from collections.abc import Iterable, Iterator

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


_NUMBERS = {word: number for number, word in enumerate(WORDS)}
_FIRST_CHUNK_ID = 1 << 8  # smaller ids are words; a chunk of text is its bytes after a one


def encode(text: str) -> list[int]:
    """Token ids of a prompt."""
    data = text.encode()
    return [int.from_bytes(b"\1" + data[at : at + TOKEN_BYTES]) for at in range(0, len(data), TOKEN_BYTES)] or [1]


def encode_word(word: str) -> int:
    """Token id of a word of an answer; of any other piece the id of its text."""
    number = _NUMBERS.get(word.removeprefix(" "))
    return number if number is not None and _spaced(WORDS[number]) == word else encode(word)[0]


def decode(ids: Iterable[int]) -> str:
    """The text that `ids` stand for, of prompts and answers alike."""
    return b"".join(map(_decode_one, ids)).decode(errors="replace")


def _decode_one(number: int) -> bytes:
    if number < len(WORDS):
        return _spaced(WORDS[number]).encode()
    if number < _FIRST_CHUNK_ID:
        return b""
    return number.to_bytes((number.bit_length() + 7) // 8)[1:]


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
