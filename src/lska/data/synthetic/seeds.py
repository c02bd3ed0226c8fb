"""Random streams and seeds that are named by a key.

Everything random is drawn from a stream that is named by a key of integers and strings, never from a shared
generator. So an image depends on its own key alone, not on the images made before it.
"""

import hashlib
import zlib

import numpy as np

HELD_OUT = 1 << 30
"""First instance number of the held-out pool: training instances lie below it, validation instances from it on."""


def generator(*key: int | str) -> np.random.Generator:
    """The random stream named by `key` (non-negative integers and strings)."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any parts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
