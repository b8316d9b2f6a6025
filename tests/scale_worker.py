"""What each of two processes does in test_scale.py, started by torchrun.

scale_worker.py RUN.json killed    # the second process kills itself after step 4
scale_worker.py RUN.json done      # both go on, and then shard a model with FSDP2
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, TrainerCallback

from langmerge.scale import settings, training


class Watch(TrainerCallback):
    """Notes the step at which training begins, and kills the second process where told to."""

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what

    def on_train_begin(self, args, state, control, **kwargs):
        begun = f"at step {state.global_step}, {args.world_size} processes"
        (self.folder / self.what).write_text(begun)

    def on_step_end(self, args, state, control, **kwargs):
        if self.what == "killed" and args.process_index == 1 and state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def shard(run: settings.Run, folder: Path) -> None:
    """One step of a model whose parameters lie in two processes, saved as training saves."""
    rank = torch.distributed.get_rank()
    model = training.load(Path(run.model), torch.float32)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    parameters = list(model.parameters())
    assert all(isinstance(one, DTensor) for one in parameters)
    held = sum(one.to_local().numel() for one in parameters)
    assert held < sum(one.numel() for one in parameters)
    batch = one_batch(run)
    step(model, {name: tensor[2 * rank : 2 * rank + 2] for name, tensor in batch.items()})
    training.save(model, folder, AutoTokenizer.from_pretrained(run.model), torch.float32)


def one_batch(run: settings.Run) -> dict[str, torch.Tensor]:
    """The four rows of a step."""
    rows = training.prepare(run)
    return {
        name: torch.stack([rows[i][name] for i in range(4)]) for name in ("input_ids", "labels")
    }


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """One step down the gradient."""
    # Adam's first step has the gradient's sign alone, which rounding turns where it is near zero.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(**batch, use_cache=False).loss.backward()
    optimizer.step()


def main() -> None:
    """The run, and then the shards."""
    torch.set_num_threads(1)
    run = settings.parse("ct", json.loads(Path(sys.argv[1]).read_text()))
    training.continual_pretrain(run, callbacks=[Watch(run.out.parent, sys.argv[2])])
    shard(run, run.out.parent / "sharded")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
