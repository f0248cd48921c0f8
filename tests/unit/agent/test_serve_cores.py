"""The cores: never more lent than there are, and the one who waited longest is next."""

import threading
import time

from edgeml_agent.serve.cores import Cores


def test_no_more_cores_are_lent_than_there_are():
    """Six threads want two of four cores each: at most two threads have them at a time."""
    cores, lent, most = Cores(4), [], []

    def borrow():
        for _ in range(20):
            with cores.borrowed(2):
                lent.append(2)
                most.append(sum(lent))
                time.sleep(0.0005)
                lent.pop()

    threads = [threading.Thread(target=borrow) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert max(most) <= 4
    assert len(most) == 120


def test_who_waits_longest_is_next_even_when_it_wants_more():
    """One that wants all cores isn't overtaken by those that come after it and want one."""
    cores, order, first = Cores(2), [], threading.Event()

    def borrow(name, wanted):
        with cores.borrowed(wanted):
            order.append(name)

    with cores.borrowed(1):
        threads = []
        for name, wanted in (("all", 2), ("one", 1), ("another", 1)):
            threads.append(threading.Thread(target=borrow, args=(name, wanted)))
            threads[-1].start()
            while len(cores._waiting) < len(threads):
                first.wait(0.001)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order[0] == "all"


def test_more_than_all_is_all():
    """A bundle may name more threads than this machine has cores."""
    cores = Cores(2)
    with cores.borrowed(8), cores.borrowed(0):
        pass
    with cores.borrowed(2):
        pass
