from kalam_notify.sql.cache import LatestCache


def test_a_cache_holds_what_weighs_no_more_than_its_capacity() -> None:
    cache: LatestCache[str, int] = LatestCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 6)
    assert (cache.get("a"), cache.get("b"), cache.weight) == (1, 2, 10)
    cache.put("c", 3, 1)
    # b was used later than a.
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, 2, 3)


def test_what_is_too_heavy_is_given_back_and_not_kept() -> None:
    cache: LatestCache[str, int] = LatestCache(10)
    assert cache.put("a", 1, 10) == 1
    assert cache.put("b", 2, 11) == 2
    assert (cache.get("a"), cache.get("b")) == (1, None)
    cache.clear()
    assert (len(cache), cache.weight) == (0, 0)
