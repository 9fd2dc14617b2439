"""Random numbers as pure functions of what they are for.

SplitMix64 (Steele, Lea and Flood 2014), used as a hash: a draw depends on its key and its index alone, so
the order in which samples are made, and by which process, changes nothing.
"""
import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts):
    """64-bit key of a tuple of integers and strings, e.g. ``key(seed, "mask", epoch)``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@np.errstate(over="ignore")      # arithmetic is modulo 2^64
def bits(key, index):
    """The 64 random bits numbered ``index`` under ``key``: uint64, of the shape the two broadcast to."""
    z = np.asarray(key, np.uint64) + (np.asarray(index).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permutation(key, n):
    """The numbers from 0 to n - 1 in a random order."""
    return np.argsort(bits(key, np.arange(n)))


def uniform(bits):
    """float64 in [0, 1) from the upper 53 bits."""
    return (bits >> np.uint64(11)) * 2.0 ** -53


def below(bits, n):
    """Integers in [0, n) from the upper 32 bits, for n up to 2^32."""
    return ((bits >> np.uint64(32)) * np.asarray(n).astype(np.uint64) >> np.uint64(32)).astype(np.int64)
