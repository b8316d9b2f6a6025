"""What each of two processes does in test_scale.py, started by torchrun or accelerate launch.

scale_worker.py RUN.json killed    # the second process kills itself after step 4
scale_worker.py RUN.json done      # both go on to the end

Under `accelerate launch --config_file data/accelerate/fsdp.yaml` they train by accelerate's FSDP2,
which asks for GPUs: here its question is answered with yes, and everything else is its own.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from langmerge.scale import settings, training


class Watch(TrainerCallback):
    """Notes the step at which training begins, and kills the second process where told to."""

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        its = list(model.parameters())
        whole = sum(one.numel() for one in its)
        here = sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in its)
        begun = f"at step {state.global_step}, {args.world_size} processes, {here / whole:.2f} each"
        (self.folder / self.what).write_text(begun)

    def on_step_end(self, args, state, control, **kwargs):
        if self.what == "killed" and args.process_index == 1 and state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def pretend_gpus() -> None:
    """Let accelerate take two processes on a CPU, which talk by gloo, for two with a GPU each."""
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    training._refuse_fsdp_without_gpu = lambda: None


def main() -> None:
    """The run."""
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        pretend_gpus()
    run = settings.parse("ct", json.loads(Path(sys.argv[1]).read_text()))
    training.continual_pretrain(run, callbacks=[Watch(run.out.parent, sys.argv[2])])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
