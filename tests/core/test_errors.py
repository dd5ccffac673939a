import pytest

from twintape.core import errors
from twintape.core.errors import (
    AlreadyExistsError,
    ConfigError,
    ContinuityError,
    CorruptionError,
    NotFoundError,
    RefusedError,
    StoreError,
    TwintapeError,
    WireError,
)


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        (ConfigError, (TwintapeError, ValueError)),
        (WireError, (TwintapeError,)),
        (CorruptionError, (TwintapeError,)),
        (ContinuityError, (TwintapeError,)),
        (StoreError, (TwintapeError,)),
        (NotFoundError, (StoreError, LookupError)),
        (AlreadyExistsError, (StoreError,)),
        (RefusedError, (TwintapeError,)),
    ],
)
def test_every_error_is_caught_as_each_of_its_parents(kind, parents):
    for parent in parents:
        with pytest.raises(parent, match=r"^what happened$"):
            raise kind("what happened")


def test_the_module_exports_every_error_it_defines():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


def test_damage_is_neither_a_value_error_nor_an_os_error_so_that_no_retry_swallows_it():
    assert not issubclass(CorruptionError, ValueError | OSError | LookupError)


def test_the_text_ends_with_the_hint():
    error = RefusedError("3 proofs are missing", hint="merge 2026-11-22 first")
    assert str(error) == "3 proofs are missing (merge 2026-11-22 first)"
    assert error.hint == "merge 2026-11-22 first"


def test_the_text_is_the_bare_message_without_a_hint():
    error = ConfigError("jobs is 0")
    assert (str(error), error.hint) == ("jobs is 0", None)


@pytest.mark.parametrize("kind", [StoreError, NotFoundError, AlreadyExistsError])
def test_a_store_error_is_final_unless_it_says_that_it_may_be_retried(kind):
    assert kind("put a: 403").retryable is False
    error = kind("put a: 503", retryable=True, hint="wait")
    assert error.retryable is True
    assert str(error) == "put a: 503 (wait)"
