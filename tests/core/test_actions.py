import dataclasses
import typing

import pytest

from twintape.core import actions


def test_every_kind_of_action_is_in_the_union_and_none_can_be_changed():
    kinds = {getattr(actions, name) for name in actions.__all__} - {actions.Action}
    assert set(typing.get_args(actions.Action)) == kinds
    for kind in kinds:
        arguments = [None] * len([field for field in dataclasses.fields(kind) if field.default_factory is dataclasses.MISSING])
        with pytest.raises(AttributeError):
            setattr(kind(*arguments), dataclasses.fields(kind)[0].name, 1)


def test_a_notice_without_details_has_none():
    assert actions.Notice("gap").details == {}
