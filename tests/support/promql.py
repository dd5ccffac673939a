"""A strict reader of the PromQL that alert rules need: it refuses what it does not know, and says which series an expression reads."""

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[\d+[smhd]\])
    |(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/<>=(){},]))""",
    re.VERBOSE,
)
RANGE_FUNCTIONS = {"rate": 1, "increase": 1, "changes": 1}
FUNCTIONS = {"abs": 1, "time": 0, "histogram_quantile": 2}
AGGREGATIONS = {"sum", "count", "max", "min"}
LEVELS = (("or",), ("and", "unless"), ("==", "!=", ">", "<", ">=", "<="), ("+", "-"), ("*", "/"))


class PromqlError(ValueError):
    """The expression is not understood."""


@dataclass(frozen=True)
class Selector:
    """One metric that an expression reads; `matchers` are (label, operator, value)."""

    metric: str
    matchers: tuple = ()


class _Reader:
    def __init__(self, text):
        self.tokens, self.selectors, self.labels, position = [], [], set(), 0
        text = text.rstrip()
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise PromqlError(f"unexpected {text[position : position + 20]!r}")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def peek(self):
        return self.tokens[0] if self.tokens else ("end", "")

    def take(self, value=None, kind=None):
        found = self.peek()
        if (value is not None and found[1] != value) or (kind is not None and found[0] != kind):
            raise PromqlError(f"expected {value or kind}, found {found[1]!r}")
        self.tokens.pop(0)
        return found[1]

    def expression(self, level=0):
        if level == len(LEVELS):
            return self.operand()
        self.expression(level + 1)
        while self.peek()[1] in LEVELS[level] and self.peek()[0] in ("sign", "name"):
            self.take()
            self.expression(level + 1)
        return None

    def operand(self):
        kind, text = self.peek()
        if kind == "number":
            self.take()
        elif text == "(":
            self.take("(")
            self.expression()
            self.take(")")
        elif kind != "name" or text in ("by", "and", "or", "unless"):
            raise PromqlError(f"unexpected {text!r}")
        elif text in AGGREGATIONS:
            self.aggregation()
        elif self.tokens[1:2] == [("sign", "(")]:
            self.call()
        else:
            self.selector()

    def aggregation(self):
        self.take()
        if self.peek()[1] == "by":
            self.take()
            self.take("(")
            self.labels.add(self.take(kind="name"))
            while self.peek()[1] == ",":
                self.take()
                self.labels.add(self.take(kind="name"))
            self.take(")")
        self.take("(")
        self.expression()
        self.take(")")

    def call(self):
        name = self.take()
        count = RANGE_FUNCTIONS.get(name, FUNCTIONS.get(name))
        if count is None:
            raise PromqlError(f"unknown function {name}")
        self.take("(")
        for index in range(count):
            if index:
                self.take(",")
            if name in RANGE_FUNCTIONS:
                self.selector()
                self.take(kind="range")
            else:
                self.expression()
        self.take(")")

    def selector(self):
        metric, matchers = self.take(kind="name"), []
        if self.peek()[1] == "{":
            self.take()
            while self.peek()[1] != "}":
                label, operator = self.take(kind="name"), self.take(kind="sign")
                if operator not in ("=", "!=", "=~", "!~"):
                    raise PromqlError(f"{operator!r} compares no labels")
                matchers.append((label, operator, self.take(kind="string")[1:-1]))
                if self.peek()[1] != "}":
                    self.take(",")
            self.take("}")
        self.selectors.append(Selector(metric, tuple(matchers)))


def read(text):
    """Return the selectors of an expression and the labels it groups by.

    Raises:
        PromqlError: It is no PromQL, or more than this reader knows.
    """
    reader = _Reader(text)
    reader.expression()
    if reader.tokens:
        raise PromqlError(f"unexpected {reader.peek()[1]!r}")
    return reader.selectors, reader.labels
