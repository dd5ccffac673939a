"""Every order in which mergers, pruners and late raw objects can meet; larger configurations: `uv run python tests/protocol/model.py`."""

import pytest

import protocol.model as model


@pytest.mark.parametrize("size", model.SIZES.values(), ids=model.SIZES)
def test_the_protocol_loses_nothing_in_any_order_of_events(size):
    verdict = model.check(model.PROTOCOL, size)
    assert verdict.violation is None
    assert verdict.states > 10_000


@pytest.mark.parametrize("mistake", model.MISTAKES)
def test_every_rule_is_needed(mistake):
    verdict = model.check(model.MISTAKES[mistake], model.Size())
    assert verdict.violation is not None
    assert 0 < len(verdict.story) <= 15


def test_orphans_by_age_lose_the_last_copy_as_the_story_tells():
    verdict = model.check(model.MISTAKES["orphans are deleted by age"], model.Size(late=(), lost_puts=0))
    assert verdict.story[:2] == ("merger 0 reads head 0 and raw a", "merger 0 puts the outputs of attempt 0")
    assert set(verdict.story[2:]) == {
        "pruner 0 has found old orphans and plans",
        "pruner 0 does delete outputs of attempt 0",
        "merger 0 has verified attempt 0",
        "merger 0 publishes attempt 0 as generation 1",
    }
