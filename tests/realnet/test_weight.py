"""What records weigh: their content, whatever it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from realnet import Message
from realnet.weight import weigh


class Plain(Message):
    number: int = 0
    share: float = 0.0
    flag: bool = False


class Text(Message):
    text: str = ""


class Mixed(Message):
    number: int
    anything: Any
    inner: tuple[Plain, ...] = ()
    array: npt.NDArray[np.float32] | None = None


def test_a_record_weighs_what_it_holds() -> None:
    assert weigh(Plain()) == 16 + 3 * 8
    assert weigh(Text("abcde")) == 16 + 5
    assert weigh(Mixed(1, None)) == 16 + 8 + 8 + 0 + 8
    base = weigh(Mixed(1, ""))
    for anything, more in (
        (b"12345", 5),
        (bytearray(7), 7),
        (memoryview(bytes(9)), 9),
        (np.zeros((3, 5), np.int16), 30),
        (np.float64(1.0), 8),
        (torch.zeros(6, dtype=torch.bfloat16), 12),
        ([1, 2, 3], 24),
        ([], 0),
        (("ab", "c"), 3),
        ({"key": "value", "other": 1.5}, 3 + 5 + 5 + 8),
        (Plain(), 40),
        ([Plain(), Text("xy")], 40 + 18),
        (object(), 16),
    ):
        for _ in range(2):  # the second time its type is known
            assert weigh(Mixed(1, anything)) == base + more, anything
    assert weigh(Mixed(1, "", (Plain(),), np.zeros(10, np.float32))) == base + 40 + 40 - 8
