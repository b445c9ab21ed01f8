"""The thread that writes: nobody waits for it, what goes wrong in it surfaces, and nothing handed over is lost."""

import threading
import time

import pytest

from emocache.extract import background
from emocache.extract.background import Background


def nothing() -> None: ...


def test_who_hands_over_does_not_wait_for_a_slow_taker() -> None:
    taken: list[int] = []
    go = threading.Event()

    def take(item: int) -> None:
        go.wait(10)
        taken.append(item)

    with Background(take, nothing, nothing) as slow:
        for item in range(100):
            slow.put(item, 1000)
        assert not taken
        assert slow.blocked_s < 1
        go.set()
    assert taken == list(range(100))


def test_only_so_much_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "BACKLOG_BYTES", 25)
    most, waiting = 0, 0
    lock = threading.Lock()

    def take(_: int) -> None:
        nonlocal waiting
        time.sleep(0.002)
        with lock:
            waiting -= 1

    with Background(take, nothing, nothing) as slow:
        for item in range(50):
            with lock:
                waiting += 1
                most = max(most, waiting)
            slow.put(item, 10)
    assert most <= 5
    assert slow.blocked_s > 0


def test_what_goes_wrong_in_the_thread_is_raised_where_things_are_handed_over() -> None:
    def take(item: int) -> None:
        if item == 3:
            raise OSError("no room")

    handed = 0
    with pytest.raises(OSError, match="no room"), Background(take, nothing, nothing) as broken:  # noqa: PT012
        for item in range(1000):
            broken.put(item, 1)
            handed += 1
            time.sleep(0.01)
    assert 3 < handed < 1000


def test_what_goes_wrong_behind_the_last_item_is_raised_at_the_end() -> None:
    def finish() -> None:
        raise OSError("no room at the end")

    with pytest.raises(OSError, match="no room at the end"), Background(lambda _: None, nothing, finish) as broken:
        broken.put(1, 1)


def test_an_interruption_finishes_what_was_handed_over() -> None:
    taken: list[int] = []
    finished: list[bool] = []
    with pytest.raises(KeyboardInterrupt), Background(taken.append, nothing, lambda: finished.append(True)) as disk:  # noqa: PT012
        for item in range(20):
            disk.put(item, 1)
        raise KeyboardInterrupt
    assert taken == list(range(20))
    assert finished == [True]


def test_while_nothing_comes_the_taker_is_asked_whether_something_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_S", 0.01)
    asked = threading.Event()
    with Background(lambda _: None, asked.set, nothing):
        assert asked.wait(10)
