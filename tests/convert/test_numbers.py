"""Numbers out of pickles that are not believed."""

import io
import pickle

import numpy as np
import pytest

from convert.numbers import read_numbers


class Claiming:
    """Pickles as an array of objects that says what shape it has."""

    def __init__(self, shape, objects):
        self.state = (1, shape, np.dtype(object), False, objects)

    def __reduce__(self):
        return (*np.array(None, object).__reduce__()[:2], self.state)


@pytest.mark.parametrize("shape", [(), (5,), (1000,), (100_000_000,), (-1,)])
def test_an_array_of_objects_is_as_long_as_its_list_whatever_shape_it_claims(shape):
    stream = io.BytesIO()
    about = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, about)
    stream.write(pickle.dumps(Claiming(shape, [{"num_boxes": 3, "name": "cat"}]), protocol=4))
    assert read_numbers(stream.getvalue()) == {"num_boxes": 3}
