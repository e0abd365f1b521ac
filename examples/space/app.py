"""Serve a page where people upload or record a video, and see what a model saw in it.

    vjepa-hf demo --model output/mine

This folder is also a Space for the Hub, see its README.md. A video is deleted from the disk as soon as it is in
memory, and the answer goes to the browser without a file.
"""

import html
import os
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vjepa_hf import VJEPAModel, VJEPAVideoProcessor, tiny_checkpoint
from vjepa_hf.evaluation.dense_features import stream_features, write_features
from vjepa_hf.evaluation.loading import load_encoder
from vjepa_hf.look import look_at, write_page
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile
from vjepa_hf.training.arguments import mistakes_exit, option, parse

MAX_BYTES = 50 * 2**20
MAX_SECONDS = 30
MAX_FRAMES = 60 * MAX_SECONDS
MAX_SIDE = 3840  # of a frame, in pixels
MAX_WAITING = 20  # visitors
FORGET_SECONDS = 600  # after the upload of a video that is never sent

ABOUT = f"""# What does V-JEPA see?
Upload or record a video of up to {MAX_SECONDS} seconds. You see the features of the model, and where its predictions
of hidden parts of the video are wrong. The server keeps nothing: it deletes your video as soon as it has read it.
"""
NO_VIDEO = "Upload or record a video first."
GONE = "The server does not have this video any more. Upload it again."
STYLE = """
#answer, #answer div, #answer a {padding: 0; margin: 0}
#answer iframe {width: 100%; height: 90vh; border: 0}
#answer .refusal {font-size: 1.15em}
"""


@dataclass
class DemoArguments:
    """Serve a page where people upload a video and see what a model saw in it."""

    model: str = option(
        "folder or Hub name of a model; default: $MODEL, or the tiny checkpoint of the package",
        os.environ.get("MODEL", str(tiny_checkpoint())),
    )
    port: int | None = option("port of the server; None: the first free one from 7860 on", None)


def take_upload(path: Path) -> bytes:
    """Read an upload and delete it, with the folder that Gradio names after the content."""
    try:
        video = path.read_bytes()
        path.unlink()
    except FileNotFoundError as error:  # somebody else sent the same file
        raise ValueError(GONE) from error
    with suppress(OSError):  # the folder has the same content under another name
        path.parent.rmdir()
    return video


def check_upload(video: bytes) -> None:
    """Check the length and size of a video, before any work.

    Raises:
        ValueError: it cannot be read, has a single frame, or is too long or too large.
    """
    if len(video) > MAX_BYTES:
        raise ValueError(f"This file has {len(video)} bytes, and {MAX_BYTES} are allowed. Upload a smaller one.")
    try:
        with VideoFile(video) as file:
            info = file.info
    except VideoDecodeError as error:
        raise ValueError("This file is not a video, or it is damaged. Upload an mp4 or webm file.") from error
    if info.width > MAX_SIDE or info.height > MAX_SIDE:
        raise ValueError(f"This video has {info.width} x {info.height} pixels, and {MAX_SIDE} a side are allowed.")
    if info.num_frames < 2:
        raise ValueError("This file has one frame, and a video has at least two.")
    if info.num_frames > MAX_FRAMES or not info.duration <= MAX_SECONDS:
        raise ValueError(
            f"This video has {info.num_frames} frames in {info.duration:.0f} seconds, and {MAX_FRAMES} frames in "
            f"{MAX_SECONDS} seconds are allowed. Upload a part of it."
        )


def answer(
    path: str | None, model: str, encoder: VJEPAModel, processor: VJEPAVideoProcessor
) -> tuple[str, dict[str, float] | None]:
    """Return HTML about an upload, and the class probabilities if the model classifies.

    The HTML has the page of `vjepa-hf look` in a frame, and the features behind a link; or it says what is wrong with
    the upload.
    """
    if path is None:
        return refusal(NO_VIDEO), None
    try:
        video = take_upload(Path(path))
        check_upload(video)
        look = replace(look_at(video, model, max_seconds=MAX_SECONDS), video=Path(path).name)
        with TemporaryDirectory() as folder:
            page = write_page(look, Path(folder) / "page.html").read_text(encoding="utf-8")
            features = Path(folder) / "features.safetensors"
            pieces = stream_features(encoder, processor, video, processor.num_frames)
            write_features(pieces, features, {"video": look.video, "model": model})
            address = f"data:application/octet-stream;base64,{b64encode(features.read_bytes()).decode()}"
    except VideoDecodeError:
        return refusal("A part of this video is damaged."), None
    except ValueError as error:
        return refusal(str(error)), None
    link = f'<a download="{features.name}" href="{address}">Download the features</a> of every time step'
    frame = f'<iframe title="What the model saw" sandbox="allow-scripts" srcdoc="{html.escape(page)}"></iframe>'
    probabilities = None
    if look.probabilities is not None:
        probabilities = dict(zip(look.class_names, look.probabilities.mean(axis=0).tolist(), strict=True))
    return f"<p>{link}</p>{frame}", probabilities


def refusal(text: str) -> str:
    """Return HTML that says what is wrong."""
    return f'<p class="refusal" role="alert">{html.escape(text)}</p>'


def make_app(model: str) -> Any:
    """Return the Gradio app of a model.

    Raises:
        OSError: the model does not exist.
        ValueError: the model is damaged or not a V-JEPA model, or Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ValueError("the demo needs gradio: pip install 'vjepa_hf[demo]'")
    import gradio as gr

    encoder, processor = load_encoder(model)
    with gr.Blocks(title="V-JEPA", analytics_enabled=False, delete_cache=(60, FORGET_SECONDS)) as app:
        gr.Markdown(ABOUT)
        # not mirrored: text and directions of motion would be wrong
        camera = gr.WebcamOptions(mirror=False)
        video = gr.Video(label="Video", sources=["upload", "webcam"], height=320, webcam_options=camera)
        button = gr.Button("Look at it", variant="primary")
        classes = gr.Label(label="Classes", num_top_classes=5, visible=False)
        page = gr.HTML(elem_id="answer")

        def respond(path: str | None) -> tuple[None, Any, str]:
            text, probabilities = answer(path, model, encoder, processor)
            return None, gr.Label(probabilities, visible=probabilities is not None), text

        button.click(respond, video, [video, classes, page], api_visibility="private")
    return app.queue(max_size=MAX_WAITING)


def main(command_line: Sequence[str] | None = None) -> None:
    args = parse(DemoArguments, command_line)
    with mistakes_exit():
        app = make_app(args.model)
        import gradio as gr

        # Gradio's own fonts come from the network.
        theme = gr.themes.Default(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"])
        app.launch(server_port=args.port, max_file_size=MAX_BYTES, theme=theme, css=STYLE, footer_links=[])


if __name__ == "__main__":
    main()
