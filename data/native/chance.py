"""Random numbers as pure functions of what they are for: SplitMix64 (Steele, Lea and Flood 2014) as a hash.

The same key and index give the same number in any order and in any process.
"""
import hashlib

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1        # arithmetic is modulo 2^64


def key(*parts) -> int:
    """64-bit key of a tuple of integers and strings, e.g. ``key(seed, "mask", epoch)``."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def bits(key: int, index: int) -> int:
    """The 64 random bits numbered ``index`` under ``key``."""
    z = (key + (index + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(bits: int) -> float:
    """A number in [0, 1) from the upper 53 bits."""
    return (bits >> 11) * 2.0 ** -53


def below(bits: int, n: int) -> int:
    """A whole number in [0, n) from the upper 32 bits, for n up to 2^32."""
    return (bits >> 32) * n >> 32
