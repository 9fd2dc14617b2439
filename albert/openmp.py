"""Imported by `albert` before torch, whose OpenMP (GNU's, on Linux) reads its settings as it is loaded: without effect where
a program has imported torch before `albert`.

A thread that has done its share of an operation waits for the others by turning in a loop, in GNU's default for
milliseconds. As soon as other work takes one of the cores, it turns while that which it waits for can't run: beside one busy
process, training took three times as long and more. Here it turns for some tens of microseconds, as long as the next
operation takes to begin, and then leaves the core to others.
"""
import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
