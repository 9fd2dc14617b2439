"""The signals that ask a training to end, and output that nobody can read any more."""
import os
import select
import signal
import time
from contextlib import contextmanager
from types import SimpleNamespace

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def noted():
    """Note the signals of ``ENDING`` instead of dying of them; after any of them a SIGINT interrupts at once. A SIGHUP that
    is ignored (by ``nohup``) stays so."""
    received = SimpleNamespace(signal=0)

    def note(number, frame):
        received.signal = number
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        _lead_dead_output_away()

    heard = ENDING[:-1] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else ENDING
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lead_dead_output_away():
    """A terminal that hung up and a ``| tee`` that the same Ctrl-C has ended take no words: writing some would end the run
    before it has saved. What was to go there goes to the other output, or nowhere."""
    time.sleep(0.1)                                             # the other programs need a moment to end
    dead = [output for output in (1, 2) if _is_dead(output)]
    for output in dead:
        os.dup2(os.open(os.devnull, os.O_WRONLY) if len(dead) == 2 else 3 - output, output)


def _is_dead(output):
    poll = select.poll()
    poll.register(output, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
