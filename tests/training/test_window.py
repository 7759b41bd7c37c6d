import torch

from sdqn_lab.training.window import Window


def test_means_by_key_and_then_nothing_left():
    window = Window()
    for value in (1.0, 2.0, 6.0):
        window.add({"loss": torch.tensor(value)})
    window.add({"return": 4.0})
    assert window.flush() == {"loss": 3.0, "return": 4.0}
    assert window.flush() == {}


def test_a_window_that_was_saved_goes_on_exactly():
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    whole, first, second = Window(), Window(), Window()
    for value in values:
        whole.add({"x": value})
    for value in values[:7]:
        first.add({"x": value})
    second.load_state_dict(first.state_dict())
    for value in values[7:]:
        second.add({"x": value})
    assert second.flush() == whole.flush()


def test_what_was_added_is_never_written_into():
    window, value = Window(), torch.tensor(2.0, dtype=torch.float64)
    for _ in range(3):
        window.add({"x": value})
    assert value == 2.0
    assert window.flush() == {"x": 2.0}


def test_tensors_and_numbers_of_one_key_are_summed_in_double():
    window, small = Window(), torch.tensor(2.0**-40)
    for value in (1.0, small, 1.0, small):
        window.add({"x": value})
    assert window.flush() == {"x": (2.0 + 2.0**-39) / 4}
