"""Boards that a real tracker on loopback hands out, one at a time and together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hwautoml.devices.board_pool import BoardPool
from hwautoml.devices.rpc import RpcDevice
from hwautoml.devices.tracker import Boards, list_devices
from tests.devices.rpc_boards import (
    KEY,
    QUICK,
    TRACKER,
    Service,
    agent,
    becomes_true,
    measured,
    running,
    unavailable,
)

pytestmark = pytest.mark.slow


def test_boards_of_a_tracker(libraries: dict[str, Path]) -> None:
    with running(TRACKER) as tracker:
        assert list_devices(tracker.address) == []
        absent = "none is registered; the tracker has no boards at all"
        with RpcDevice(tracker.address, key=KEY, is_tracker=True) as device, unavailable(absent):
            device.conditions()
        with running(agent(tracker=tracker.address)) as one, running(agent(tracker=tracker.address)) as two:
            boards = Boards(KEY, tuple(sorted([one.address, two.address])), num_free=2, num_waiting=0)
            assert becomes_true(lambda: list_devices(tracker.address) == [boards])
            both_boards_in_parallel(tracker.address, libraries)
            assert becomes_true(lambda: list_devices(tracker.address) == [boards])
            two.kill()
            one_board_for_two_clients(tracker.address, libraries)


def both_boards_in_parallel(tracker: str, libraries: dict[str, Path]) -> None:
    with (
        RpcDevice(tracker, key=KEY, is_tracker=True) as first,
        RpcDevice(tracker, key=KEY, is_tracker=True) as second,
        ThreadPoolExecutor() as threads,
    ):
        conditions = first.conditions(), second.conditions()
        assert all(found["key"] == KEY and found["address"] == tracker for found in conditions)
        assert list_devices(tracker)[0].num_free == 0
        calls = [threads.submit(d.measure, [libraries["small"]], libraries["large"], QUICK) for d in (first, second)]
        for call in calls:
            measured(call.result())


def one_board_for_two_clients(tracker: str, libraries: dict[str, Path]) -> None:
    assert becomes_true(lambda: len(list_devices(tracker)[0].addresses) == 1)
    with RpcDevice(tracker, key=KEY, is_tracker=True) as first:
        first.conditions()
        busy = "none of 1 became free within 2 s"
        with RpcDevice(tracker, key=KEY, is_tracker=True, connect_timeout_sec=2) as second, unavailable(busy):
            second.conditions()
        with RpcDevice(tracker, key="rpi4", is_tracker=True) as other, unavailable(f"the tracker has {KEY}"):
            other.conditions()
    with RpcDevice(tracker, key=KEY, is_tracker=True) as third:  # the client that gave up is not served
        measured(third.measure([libraries["small"]], None, QUICK))


def test_all_boards_of_a_tracker_measure_together(libraries: dict[str, Path]) -> None:
    paths = [libraries[name] for name in ("small", "large", "small", "large", "small")]
    with (
        running(TRACKER) as tracker,
        running(agent(tracker=tracker.address)),
        running(agent(tracker=tracker.address)),
        BoardPool(tracker.address, key=KEY) as pool,
    ):
        assert becomes_true(lambda: [b.num_free for b in list_devices(tracker.address)] == [2])
        progress: list[tuple[int, int]] = []
        results = measured(
            pool.measure(paths, libraries["large"], QUICK, lambda done, total, _text: progress.append((done, total)))
        )
        assert pool.num_boards == 2 and list_devices(tracker.address)[0].num_free == 0
        small, large = [r.median_ms for r in results[0::2]], [r.median_ms for r in results[1::2]]
        assert min(large) > 2 * max(small)  # in order, whichever board they were on
        assert len({r.conditions["reference_median_ms"] for r in results}) == 1  # brought to one speed
        assert len({r.conditions["board_speed"] for r in results}) == 2
        assert progress[-1] == (5, 5)
        pool.close()
        assert becomes_true(lambda: list_devices(tracker.address)[0].num_free == 2)


def test_what_a_lost_board_had_left_the_others_measure(libraries: dict[str, Path]) -> None:
    paths = [libraries["small"], libraries["large"]] * 2
    with running(TRACKER) as tracker, running(agent(tracker=tracker.address)) as one:
        lost = Service(agent(tracker=tracker.address))
        try:
            with BoardPool(tracker.address, key=KEY, connect_timeout_sec=2) as pool:
                assert becomes_true(lambda: [b.num_free for b in list_devices(tracker.address)] == [2])
                results = measured(
                    pool.measure(
                        paths,
                        libraries["large"],
                        QUICK,
                        lambda done, total, text: lost.kill() if text == "round 1" else None,
                    )
                )
                assert len(results) == len(paths)
                one.kill()
                with unavailable("cannot be used"):
                    pool.measure(paths, libraries["large"], QUICK)
        finally:
            lost.kill()
