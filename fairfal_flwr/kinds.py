"""The kinds of values that keys and options have, and what a mistake calls them."""

from typing import Any, Literal

__all__ = ["KINDS", "Quirks"]

KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
}

# Whether to do what the published code does, or what its paper says.
Quirks = Literal["faithful", "corrected"]
