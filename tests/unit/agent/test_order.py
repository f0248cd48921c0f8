"""The order of asking."""

from edgeml_agent.fetch.order import RequestOrder

CHUNKS = ["a", "b", "c", "d", "e"]


def an_order():
    """Five chunks, which a wave calls by upper case."""
    return RequestOrder(CHUNKS, str.upper)


def rest(order):
    """All that is left, in order."""
    taken = []
    while order:
        taken.append(order.take())
    return taken


def test_order_without_a_position_is_that_of_the_files():
    """Also where nobody knows the position."""
    order = an_order()
    order.follow("")
    order.follow("unknown")
    assert rest(order) == CHUNKS


def test_follow_continues_after_the_position():
    """What was missed comes last."""
    order = an_order()
    order.follow("C")
    assert rest(order) == ["d", "e", "a", "b", "c"]


def test_follow_ignores_a_position_that_is_behind():
    """Its position was asked for already."""
    order = an_order()
    assert [order.take(), order.take()] == ["a", "b"]
    order.follow("B")
    order.follow("A")
    assert rest(order) == ["c", "d", "e"]


def test_follow_of_a_later_position_skips_again():
    """What is skipped stays in its order."""
    order = an_order()
    assert order.take() == "a"
    order.follow("B")
    assert order.take() == "c"
    order.follow("D")
    assert rest(order) == ["e", "b", "d"]


def test_again_comes_before_all_others():
    """In the order in which it was asked for."""
    order = an_order()
    taken = [order.take(), order.take()]
    order.again(taken)
    assert rest(order) == CHUNKS
