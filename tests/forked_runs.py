"""Pretraining runs in processes forked from a server that has imported everything, and ways to break them.

A run starts in a second or two instead of ten.
"""

import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from house import REPO
from programs import cpu_environment

TINY = {
    "model.image_size": "32",
    "model.num_frames": "4",
    "model.patch_size": "8",
    "model.hidden_size": "32",
    "model.num_hidden_layers": "2",
    "model.num_attention_heads": "2",
    "model.pred_hidden_size": "16",
    "model.pred_num_hidden_layers": "1",
    "masks": json.dumps(
        [
            {"type": "multi_block", "num_blocks": 4, "spatial_scale": [0.15, 0.15]},
            {"type": "multi_block", "num_blocks": 1, "spatial_scale": [0.7, 0.7]},
        ],
        separators=(",", ":"),
    ),
    "frame_step": "2",
    "num_workers": "0",
    "max_steps": "6",
    "warmup_steps": "2",
    "per_device_batch_size": "4",
    "logging_steps": "1",
    "health_steps": "3",
    "save_steps": "3",
    "cpu_threads": "1",
}
# Audit events before changes to the file system.
FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


def command_line(**options) -> list[str]:
    """Return the command line of a tiny run with other or more options; None removes an option."""
    items = ((key, value) for key, value in (TINY | options).items() if value is not None)
    return [word for key, value in items for word in (f"--{key}", *str(value).split())]


def die_after(seconds: float) -> None:
    """Kill this process after some time, without running any handler."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def get_signal_at_file_change(folder: str, number: int, received: int = signal.SIGKILL) -> None:
    """Send this process a signal just before change `number`, from 1, to a file below a folder."""
    remaining = [number]

    def count(event: str, args: tuple) -> None:
        if (
            event in FILE_EVENTS
            and str(args[0]).startswith(folder)
            and (event != "open" or args[1] not in ("r", "rb"))
        ):
            remaining[0] -= 1
            if remaining[0] == 0:
                os.kill(os.getpid(), received)

    sys.addaudithook(count)


def run_main(words: Sequence[str], env: dict[str, str], output: str, prepare: Callable[[], None] | None) -> None:
    """Run the script in a forked process and write its output to a file."""
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.update(env)
    os.chdir(REPO)
    sys.argv = ["pretrain.py", *words]
    import pretrain

    if prepare is not None:
        prepare()
    pretrain.main()


class ForkedRuns:
    """Starter of runs, which write their output to `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["forked_runs", "pretrain", "torch.distributed.checkpoint.state_dict"])
        paths = [str(REPO / "src"), str(REPO / "examples"), str(REPO / "tests")]
        before = dict(os.environ)
        try:  # the server inherits this environment and imports the modules above when it starts
            os.environ.update(cpu_environment(folder) | {"PYTHONPATH": os.pathsep.join(paths)})
            multiprocessing.forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(self, prepare: Callable[[], None] | None = None, processes: int = 1, env=None, **options) -> list:
        """Start the processes of a run without waiting for them. Each calls `prepare` before the script."""
        self.number += 1
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
        started = []
        for rank in range(processes):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            world = address | {key: str(value) for key, value in names.items()} if processes > 1 else {}
            arguments = (command_line(**options), world | (env or {}), str(self._output()), prepare)
            started.append(self.context.Process(target=run_main, args=arguments))
            started[-1].start()
        return started

    def run(self, *arguments, timeout: float = 240, **options) -> list[int]:
        """Run to the end and return the exit codes of the processes; negative ones are signals."""
        started = self.start(*arguments, **options)
        end = time.monotonic() + timeout
        for process in started:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
        return [process.exitcode for process in started]

    def finish(self, *arguments, **options) -> str:
        """Run to the end and return the output; fail if a process fails."""
        codes = self.run(*arguments, **options)
        assert set(codes) == {0}, f"{codes}\n{self.printed()[-6000:]}"
        return self.printed()

    def fail(self, *arguments, **options) -> str:
        """Run to the end and return the output; fail if no process fails."""
        codes = self.run(*arguments, **options)
        assert any(code > 0 for code in codes), f"{codes}\n{self.printed()[-6000:]}"
        return self.printed()

    def printed(self) -> str:
        """Return the output of the last run."""
        return self._output().read_text()

    def _output(self) -> Path:
        return self.folder / f"output_{self.number}.txt"


def spoil_passes(first: int, last: int, rank: int = 0) -> None:
    """Feed NaN to forward passes `first` to `last`, from 1, of one process."""
    from vjepa_hf.training import setup

    if int(os.environ.get("RANK", 0)) != rank:
        return
    normalize, passes = setup.normalize, []

    def spoilt(*args):
        passes.append(normalize(*args))
        return passes[-1] * (math.nan if first <= len(passes) <= last else 1.0)

    setup.normalize = spoilt


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "VJEPALayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def shard_on_cpu() -> None:
    """Make Accelerate shard with FSDP2 on a CPU. Every part can, but Accelerate does so on accelerators only."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    initialize = AcceleratorState.__init__

    def initialize_sharded(self, *args, **kwargs):
        initialize(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = initialize_sharded
