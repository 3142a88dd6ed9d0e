"""Looking ids up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tamis.arrays import positions_of

IDS = st.lists(st.integers(-5, 5))


@given(wanted=IDS, held=st.lists(st.integers(-5, 5), unique=True))
def test_positions_are_those_of_a_dictionary(wanted: list[int], held: list[int]) -> None:
    places = {one: place for place, one in enumerate(held)}
    found, missing = positions_of(np.array(wanted, np.int64), np.array(held, np.int64))
    assert missing.tolist() == [one not in places for one in wanted]
    assert found[~missing].tolist() == [places[one] for one in wanted if one in places]
