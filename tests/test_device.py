"""Where the lab computes: the CPU unless a GPU is named, and what is no device."""

import pytest
import torch

from langmerge import device, grid, study, train
from langmerge.errors import LangmergeError
from langmerge.provenance import provenance


def test_without_a_word_it_is_the_cpu(monkeypatch):
    monkeypatch.delenv(device.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # a GPU that nobody asked for
    assert device.chosen() == torch.device("cpu")
    assert device.told() == provenance()["lab_device"] == "cpu"


@pytest.mark.parametrize(
    ("name", "gpus", "said"),
    [
        ("cuda", 0, "torch sees no GPU. Unset LANGMERGE_DEVICE"),
        ("cuda", 2, "torch sees 2 GPUs. Name one of them in CUDA_VISIBLE_DEVICES"),
        ("gpu", 1, "LANGMERGE_DEVICE=gpu: cpu or cuda"),
    ],
)
def test_what_is_no_device_is_said_before_anything_is_trained(monkeypatch, name, gpus, said):
    monkeypatch.setenv(device.VARIABLE, name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(LangmergeError, match=said):
        device.chosen()
    monkeypatch.setattr(grid, "cells", lambda *_: pytest.fail("it trains"))
    with pytest.raises(LangmergeError, match=said):
        study.run(profile="smoke", quiet=True)


def test_one_gpu_is_taken(monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setenv(device.VARIABLE, "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    try:
        assert device.chosen() == torch.device("cuda")
        assert device.told() == "NVIDIA H100 80GB HBM3"
    finally:
        torch.set_float32_matmul_precision(before)


def test_training_asks_for_the_chosen_device(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "chosen", lambda: torch.device("cuda"))
    recipe = train.Recipe(steps=1, batch=1, learning_rate=1e-3)
    assert not train._arguments(recipe, tmp_path, None).use_cpu
    monkeypatch.setattr(device, "chosen", lambda: torch.device("cpu"))
    assert train._arguments(recipe, tmp_path, None).use_cpu
