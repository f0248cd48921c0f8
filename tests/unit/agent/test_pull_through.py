"""What a relay pulls for its site: each key once, again when it was lost or bad, never more than the bounds."""

import asyncio

import pytest

from edgeml_agent.ports import Arrival
from edgeml_agent.relay import pull_through as relay_pulls
from edgeml_agent.relay.cache import Cache
from edgeml_agent.relay.pull_through import PULLS_MAX, PULLS_MAX_OF_ONE, OwnChunks, Pulls


def key(number):
    """A wire key."""
    return f"{number:032x}"


class Upstream:
    """An origin that answers every key but those in `lost`, so many times each."""

    position = ""

    def __init__(self):
        self.wanted, self.dropped, self.lost = [], [], {}
        self.arrivals = asyncio.Queue()

    async def follow(self, release):
        """Not needed."""

    async def want(self, keys):
        """Answer."""
        for wanted in keys:
            self.wanted.append(wanted)
            if self.lost.get(wanted, 0) > 0:
                self.lost[wanted] -= 1
            else:
                self.arrivals.put_nowait(Arrival(wanted, f"{wanted} {self.wanted.count(wanted)}".encode()))

    async def receive(self, timeout_s):
        """The next answer."""
        try:
            return await asyncio.wait_for(self.arrivals.get(), timeout_s)
        except TimeoutError:
            return None

    async def drop(self, keys):
        """Note it."""
        self.dropped += keys


class Bench:
    """A relay's pulls, and what was given to whom."""

    def __init__(self, folder):
        self.upstream, self.cache, self.given = Upstream(), Cache(folder, 1 << 20), []
        self.pulls = Pulls(self.upstream, self.cache, self.give)

    def give(self, device, keys):
        """Note it."""
        self.given += [(device, key, self.cache.wire(key).decode()) for key in keys]

    def run(self, work):
        """Do some work while pulling."""

        async def run():
            pulling = asyncio.create_task(self.pulls.run())
            async with asyncio.timeout(20):
                await work()
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)

        asyncio.run(run())

    async def until(self, count):
        """Wait until so many were given."""
        while len(self.given) < count:  # noqa: ASYNC110 - it stands in a list
            await asyncio.sleep(0.005)


def test_want_of_several_devices_shares_one_pull(tmp_path):
    """Those that come while it is on its way, and those that come after."""
    bench = Bench(tmp_path)

    async def work():
        bench.pulls.want("a", [key(1), key(2)])
        bench.pulls.want("b", [key(1)])
        await bench.until(3)
        bench.pulls.want("c", [key(1)])
        await bench.until(4)

    bench.run(work)
    assert sorted(bench.upstream.wanted) == sorted(bench.upstream.dropped) == [key(1), key(2)]
    assert {(device, it) for device, it, _ in bench.given} == {
        ("a", key(1)), ("a", key(2)), ("b", key(1)), ("c", key(1)),
    }  # fmt: skip


def test_fourth_want_of_a_device_pulls_again(tmp_path):
    """A copy may be bad, and only devices can tell; but not more often than the network can bear."""
    bench = Bench(tmp_path)

    async def work():
        for count in range(1, 9):
            bench.pulls.want("a", [key(1)])
            await bench.until(count)

    bench.run(work)
    assert [text.split()[1] for *_, text in bench.given] == [*"111", *"22222"]


def test_want_of_a_cached_key_pulls_nothing(tmp_path):
    """However many they are."""
    bench = Bench(tmp_path)

    async def work():
        for number in range(100):
            bench.pulls.want(f"device-{number}", [key(1)])
            await bench.until(number + 1)

    bench.run(work)
    assert bench.upstream.wanted == [key(1)]


def test_lost_pull_is_requested_again(tmp_path, monkeypatch):
    """When a device wants it again, and not sooner."""
    monkeypatch.setattr(relay_pulls, "PULL_AGAIN_S", 0.1)
    bench = Bench(tmp_path)
    bench.upstream.lost[key(1)] = 1

    async def work():
        bench.pulls.want("a", [key(1)])
        bench.pulls.want("a", [key(1)])
        await asyncio.sleep(0.2)
        assert bench.upstream.wanted == [key(1)]
        bench.pulls.want("b", [key(1)])
        await bench.until(2)

    bench.run(work)
    assert bench.upstream.wanted == [key(1)] * 2


def test_pull_without_an_answer_is_forgotten(tmp_path, monkeypatch):
    """It holds no place for ever."""
    monkeypatch.setattr(relay_pulls, "PULL_AGAIN_S", 0.02)
    monkeypatch.setattr(relay_pulls, "PULL_MAX_S", 1.0)
    bench = Bench(tmp_path)
    bench.upstream.lost = dict.fromkeys(map(key, range(PULLS_MAX_OF_ONE)), 1)

    async def work():
        bench.pulls.want("a", list(bench.upstream.lost))
        while len(bench.upstream.dropped) < PULLS_MAX_OF_ONE:  # noqa: ASYNC110 - it stands in a list
            await asyncio.sleep(0.01)
        bench.pulls.want("a", [key(9999)])
        await bench.until(1)

    bench.run(work)
    assert bench.given[0][1] == key(9999)


def test_greedy_device_leaves_room_for_others(tmp_path):
    """Each has a share; all together have a bound; what is no key is dropped."""
    bench = Bench(tmp_path)
    bench.upstream.lost = {key(number): 1 for number in range(PULLS_MAX * 3)}

    async def work():
        bench.pulls.want("greedy", [key(number) for number in range(PULLS_MAX * 2)])
        bench.pulls.want("greedy", ["../../etc", "x" * 32, f"{key(1)}/{key(2)}/{key(3)}"])
        bench.pulls.want("modest", [key(PULLS_MAX * 2)])
        await asyncio.sleep(0.1)
        assert len(bench.upstream.wanted) == PULLS_MAX_OF_ONE + 1
        for number in range(10):
            bench.pulls.want(f"many-{number}", [key(number * 200 + it) for it in range(200)])
        await asyncio.sleep(0.1)
        assert len(bench.upstream.wanted) == PULLS_MAX

    bench.run(work)


def test_own_device_receives_chunks_without_a_broker(tmp_path):
    """From the cache, and from afar; nothing after it has dropped them."""
    bench = Bench(tmp_path)
    own = OwnChunks("own", bench.upstream, bench.cache)
    own.pulls = bench.pulls = Pulls(bench.upstream, bench.cache, lambda _, keys: own.give(keys))
    bench.cache.put(key(1), b"here")

    async def work():
        await own.want([key(1), key(2)])
        arrived = {(await own.receive(5.0)).key for _ in range(2)}
        assert arrived == {key(1), key(2)}
        await own.drop([key(1), key(2)])
        bench.pulls.want("own", [key(1)])
        assert await own.receive(0.05) is None

    bench.run(work)


@pytest.mark.parametrize("device", ["a", "b"])
def test_lost_copy_is_pulled_again(tmp_path, device):
    """Whoever finds it gone."""
    bench = Bench(tmp_path)

    async def work():
        bench.pulls.want("a", [key(1)])
        await bench.until(1)
        bench.cache.drop(key(1))
        bench.pulls.want(device, [key(1)])
        await bench.until(2)

    bench.run(work)
    assert len(bench.upstream.wanted) == 2
