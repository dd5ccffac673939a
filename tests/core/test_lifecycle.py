import pytest

from twintape.core.lifecycle import TRANSITIONS, Event, State


def test_every_state_but_the_last_can_be_left_and_the_last_cannot():
    left = {before for (before, _), after in TRANSITIONS.items() if after is not before}
    assert left == set(State) - {State.ENDED}


@pytest.mark.parametrize("state", [state for state in State if state is not State.ENDED])
def test_from_everywhere_two_steps_at_most_lead_to_the_end_after_a_stop(state):
    stopped = TRANSITIONS[state, Event.STOP]
    ends = {event for event in Event if TRANSITIONS.get((stopped, event)) is State.ENDED}
    assert {Event.CLOSED, Event.FAILED} & ends


def test_a_stop_is_possible_everywhere_and_opens_nothing():
    assert all(TRANSITIONS[state, Event.STOP] in (State.CLOSING, State.ENDED) for state in State)
    assert {after for (_, event), after in TRANSITIONS.items() if event is Event.OPENED} == {State.OPEN, State.CLOSING}
