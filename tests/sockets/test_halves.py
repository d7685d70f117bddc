"""One bound for what has come in part, and who must go where it is passed."""

from kalam_notify.sockets.halves import HalfReceived


class Someone:
    def __init__(self, *, is_admitted: bool = False) -> None:
        self.is_admitted = is_admitted

    def make_room(self) -> None: ...


def test_up_to_the_bound_nobody_must_go() -> None:
    halves = HalfReceived(100)
    one, two = Someone(), Someone()
    assert halves.note(one, 60) == []
    assert halves.note(two, 39) == []
    assert halves.note(two, 40) == []
    assert halves.total == 100


def test_beyond_it_whoever_holds_most_goes() -> None:
    halves = HalfReceived(100)
    large, small, smaller = Someone(), Someone(), Someone()
    halves.note(large, 60)
    halves.note(small, 40)
    assert halves.note(smaller, 1) == [large]
    assert halves.total == 41


def test_those_who_have_not_authenticated_go_first() -> None:
    halves = HalfReceived(100)
    user, stranger, other = Someone(is_admitted=True), Someone(), Someone()
    halves.note(user, 60)
    halves.note(stranger, 10)
    halves.note(other, 20)
    assert halves.note(user, 85) == [other]
    assert halves.note(user, 95) == [stranger]
    assert halves.note(user, 101) == [user]
    assert (halves.total, len(halves)) == (0, 0)


def test_as_many_go_as_it_takes() -> None:
    halves = HalfReceived(100)
    crowd = [Someone() for _ in range(10)]
    for one in crowd:
        halves.note(one, 10)
    user = Someone(is_admitted=True)
    assert len(halves.note(user, 95)) == 10
    assert halves.total == 95


def test_whoever_holds_nothing_is_not_remembered() -> None:
    halves = HalfReceived(100)
    one = Someone()
    halves.note(one, 50)
    halves.note(one, 20)
    assert halves.total == 20
    assert halves.note(one, 0) == []
    assert (halves.total, len(halves)) == (0, 0)
