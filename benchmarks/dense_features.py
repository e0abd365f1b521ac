"""Features of long videos: time for a second of video and memory, against reading the same clips one at a time.

    python benchmarks/dense_features.py --video LONG.mp4 --output FILE.md

The video is cut or repeated packet by packet to several lengths, so that all have the same frames in the same coding.
`streamed` is what `vjepa-hf features --stride` does; `clip by clip` asks `video_io.decode` for the frames of every
window and encodes it. Windows overlap by half in both. The encoder is a small one with random weights, so that
reading the video is a fair share of the work. Each way runs in a process of its own, in turns; figures are medians.
Memory is the peak beyond what the process had before the video was opened.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import av
import torch

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.evaluation.dense_features import plan_windows, stream_features, write_features
from vjepa_hf.model.frame_sampling import frame_offsets
from vjepa_hf.model.video_io import decode, probe

STRIDE = 8  # frames of a clip, half of one


def of_length(video: Path, seconds: float, path: Path) -> Path:
    """The packets of a video, cut or repeated until they last so long."""
    with av.open(str(video)) as source:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.size]
        length = max(packet.pts + packet.duration for packet in packets)
        until = int(seconds / stream.time_base)
        with av.open(str(path), "w") as target:
            copy = target.add_stream_from_template(stream)
            for repetition in range(-(-until // length)):
                source.seek(0, stream=stream)
                for packet in source.demux(stream):
                    if packet.size and repetition * length + packet.dts < until:
                        packet.pts += repetition * length
                        packet.dts += repetition * length
                        packet.stream = copy
                        target.mux(packet)
    return path


def peak_mebibytes() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def clip_by_clip(model: VJEPAModel, processor: VJEPAVideoProcessor, video: str) -> int:
    """Decode and encode every window for itself; returns how many time steps there are."""
    step, size = processor.frame_step, model.config.tubelet_size
    numbers = frame_offsets(-(-probe(video).num_frames // step), step)
    num_steps = len(numbers) // size
    for window in plan_windows(num_steps, processor.num_frames // size, STRIDE // size):
        frames = numbers[window.start * size : window.start * size + processor.num_frames]
        with torch.inference_mode():
            model(processor(decode(video, frames))["pixel_values_videos"])
    return num_steps


def measure(video: str, way: str) -> None:
    """Run one way and print its figures."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = VJEPAConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=3, image_size=112)
    model, processor = VJEPAModel(config, add_predictor=False).eval(), VJEPAVideoProcessor(crop_size=112)
    with torch.inference_mode():
        model(torch.zeros(4, 16, 3, 112, 112))
    before, began, worked = peak_mebibytes(), time.perf_counter(), time.process_time()
    if way == "streamed":
        with tempfile.TemporaryDirectory() as folder:
            pieces = stream_features(model, processor, video, STRIDE)
            num_steps = write_features(pieces, Path(folder) / "features.safetensors", {})[0]
    else:
        num_steps = clip_by_clip(model, processor, video)
    figures = {"steps": num_steps, "memory": peak_mebibytes() - before}
    print(json.dumps(figures | {"wall": time.perf_counter() - began, "cpu": time.process_time() - worked}))


def main() -> None:
    """Measure all lengths in both ways, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", required=True, help="a long video")
    parser.add_argument("--seconds", type=float, nargs="+", default=[20, 139, 556], help="lengths to try")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return measure(options.video, options.way)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in options.seconds:
            path = of_length(Path(options.video), seconds, Path(folder) / f"{seconds:.0f}.mp4")
            info = probe(path)
            runs: dict[str, list[dict[str, float]]] = {"streamed": [], "clip by clip": []}
            for _ in range(options.rounds):
                for way, figures in runs.items():
                    command = [sys.executable, __file__, "--video", str(path), "--way", way]
                    result = subprocess.run(command, capture_output=True, text=True, check=True)
                    figures.append(json.loads(result.stdout.splitlines()[-1]))
            for way, figures in runs.items():
                spent, memory = (median(run[name] for run in figures) for name in ("cpu", "memory"))
                row = f"{info.duration:.0f} s, {info.num_frames:,} frames", way, f"{figures[0]['steps']:,}"
                rows.append((*row, f"{1000 * spent / info.duration:.1f}", f"{memory:.0f}"))
                print(*rows[-1], flush=True)
    lines = opening("Features of long videos", __file__, __doc__, f"PyAV {av.__version__}")
    lines += [f"Runs of each way: {options.rounds}.", ""]
    header = ["video", "way", "time steps", "processor time for a second of video, ms", "memory, MiB"]
    publish(lines + table(header, rows), options.output)


if __name__ == "__main__":
    main()
