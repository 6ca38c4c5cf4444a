"""Threads of the CPU: how they wait, and how many a piece of work gets."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

import finetune as ft
from finetune.feature_cache.frozen_part import cut_activations, frozen_part
from finetune.inference.forward import predict_batch
from finetune.model.freezing.freeze import set_trainable
from finetune.runtime.threads import (
    OMP_WAIT_VARIABLES,
    fits_one_thread,
    limit_threads,
    map_in_threads,
    run_ahead,
    wait_without_spinning,
)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return ft.build_model("mobilenetv3_small_050", ["a", "b"], weights="bundled", num_frames=2, size=32).eval()


def clips_of(count, *, frames=2, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, 3, size, size), dtype=torch.uint8, generator=generator)


def test_threads_sleep_while_they_wait():
    environment = {}
    wait_without_spinning(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("name", OMP_WAIT_VARIABLES)
def test_what_the_user_has_chosen_stays(name):
    environment = {name: "ACTIVE"}
    wait_without_spinning(environment)
    assert environment == {name: "ACTIVE"}


def test_importing_finetune_sets_it_before_torch_is_imported():
    code = "import finetune, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in OMP_WAIT_VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout == "PASSIVE False\n"


def test_small_work_gets_one_thread_and_large_work_within_it_all(three_threads):
    counts = []
    with limit_threads(small=True):
        counts.append(torch.get_num_threads())
        with limit_threads(small=False):
            counts.append(torch.get_num_threads())
            with limit_threads(small=True):
                counts.append(torch.get_num_threads())
        counts.append(torch.get_num_threads())
    assert (*counts, torch.get_num_threads()) == (1, 3, 1, 1, 3)


def test_the_number_of_threads_comes_back_after_an_error(three_threads):
    with pytest.raises(ValueError, match="broken"), limit_threads(small=True):
        raise ValueError("broken")
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda number: 1 / number, [1, 0, 2])
    assert torch.get_num_threads() == 3


def test_results_come_in_order_from_several_threads_of_one_thread_each(three_threads):
    together = threading.Barrier(3, timeout=60)  # broken unless three items are computed at the same time

    def compute(number):
        together.wait()
        return number, torch.get_num_threads()

    assert map_in_threads(compute, range(6)) == [(number, 1) for number in range(6)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_features_and_predictions_of_a_small_network_do_not_depend_on_the_number_of_threads(small, threads):
    clips, before = clips_of(5), torch.get_num_threads()
    set_trainable(small, "head")
    frozen = frozen_part(small, 2, precision="fp32")
    assert frozen is not None and small.fits_one_thread
    try:
        torch.set_num_threads(threads)
        features, probs = (
            cut_activations(small, clips, frozen),
            predict_batch(small, clips[:1, None], precision="fp32")["label"],
        )
        torch.set_num_threads(1)
        alone = torch.cat([cut_activations(small, clip, frozen) for clip in clips.split(1)])
        assert torch.equal(features, alone)
        assert torch.equal(probs, predict_batch(small, clips[:1, None], precision="fp32")["label"])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("backbone", "size", "expected"),
    # Published multiply-adds at 224 pixels, in millions: arXiv:1801.04381, arXiv:1512.03385.
    [("mobilenetv2_100", 224, 300), ("resnet18", 224, 1820)],
)
def test_multiplications_are_those_that_papers_count(backbone, size, expected):
    from finetune.model.count_multiplications import count_multiplications

    model = ft.build_model(backbone, ["a", "b"], weights="none", num_frames=1, size=size).eval()
    black = torch.zeros((1, 1, 3, size, size), dtype=torch.uint8)
    assert count_multiplications(model, lambda: model(black)) == pytest.approx(expected * 1e6, rel=0.03)


def test_multiplications_of_a_recurrent_layer_by_hand():
    from finetune.model.count_multiplications import count_multiplications

    layer = torch.nn.GRU(5, 7, batch_first=True)
    assert count_multiplications(layer, lambda: layer(torch.zeros(2, 3, 5))) == 2 * 3 * 3 * 7 * (5 + 7)


def test_what_is_small_follows_from_the_network_and_its_clips(small):
    large = ft.build_model("resnet18", ["a", "b"], weights="none", num_frames=8, size=224)
    assert small.fits_one_thread and not large.fits_one_thread
    assert not small.is_small_work(10_000) and fits_one_thread(999_999_999) and not fits_one_thread(1_000_000_000)


def test_items_are_made_ahead_in_order_and_no_further_than_asked():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    ahead = run_ahead(items(), ahead=2)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(made) <= 4, "one is given, two wait, one is being handed over"
    assert list(ahead) == list(range(1, 10))


def test_an_error_in_the_other_thread_arrives_here():
    def items():
        yield 1
        raise ValueError("broken")

    ahead = run_ahead(items(), ahead=3)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_closing_ends_the_thread_and_closes_the_iterator():
    closed = threading.Event()

    def items():
        try:
            yield from range(10**6)
        finally:
            closed.set()

    ahead = run_ahead(items(), ahead=2)
    next(ahead)
    ahead.close()
    assert closed.is_set()
