"""Test that every rank takes its share of the same global batches."""

import pytest

from xtra_toolkit.data import GlobalBatchSampler, sampler


def ranks(monkeypatch, world, images=50, epoch=0, start=0, **kwargs):
    """Return the keys of each of ``world`` processes."""
    keys = []
    for rank in range(world):
        monkeypatch.setattr(sampler, "get_dist_info", lambda rank=rank: (rank, world))
        one = GlobalBatchSampler(range(images), **{"global_batch": 12, "seed": 7, **kwargs})
        one.set_epoch(epoch, start)
        keys.append(list(one))
        assert start or len(one) == len(keys[-1])
    return keys


@pytest.mark.parametrize("world", [2, 3, 4, 12])
def test_all_ranks_together_take_the_batches_of_one_process(monkeypatch, world):
    (alone,) = ranks(monkeypatch, 1)
    shares = ranks(monkeypatch, world)
    share = 12 // world
    for step in range(4):
        together = [key for keys in shares for key in keys[step * share :][:share]]
        assert together == alone[step * 12 :][:12]


def test_an_epoch_has_full_batches_without_repeats(monkeypatch):
    (keys,) = ranks(monkeypatch, 1)
    assert len(keys) == len(set(keys)) == 48
    assert {key[:2] for key in keys} == {(7, 0)}
    assert [key[3] for key in keys] == [step for step in range(4) for _ in range(12)]
    assert {key[2] for key in keys} < set(range(50))


def test_seed_and_epoch_decide_the_permutation(monkeypatch):
    def order(**kwargs):
        return [key[2] for key in ranks(monkeypatch, 1, **kwargs)[0]]

    assert order() == order()
    assert len({tuple(order(epoch=e, seed=s)) for e in range(3) for s in range(3)}) == 9
    assert order(shuffle=False) == list(range(48))


@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_can_start_at_any_step(monkeypatch, world):
    whole, rest = ranks(monkeypatch, world), ranks(monkeypatch, world, start=3)
    assert rest == [keys[-12 // world :] for keys in whole]


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"no step: 5 images were found.*takes 12.*Lower"):
        GlobalBatchSampler(range(5), global_batch=12, seed=0)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"12 images .* 5 processes.*multiple of 5.*example 10"):
        ranks(monkeypatch, 5)


def test_a_missing_global_batch_is_refused():
    with pytest.raises(ValueError, match=r"GlobalBatchLoop.*fills it in"):
        GlobalBatchSampler(range(5), seed=0)


def test_an_iterator_keeps_the_epoch_that_it_was_made_in():
    one = GlobalBatchSampler(range(50), global_batch=12, seed=7)
    whole, begun = list(one), iter(one)
    first = next(begun)
    one.set_epoch(1, start=2)
    one.seed = 8
    assert [first, *begun] == whole
    assert {key[:2] for key in one} == {(8, 1)}
