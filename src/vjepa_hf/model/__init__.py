"""The model, and all that a Hub repository carries: these files import each other and nothing else of the package.

- `configuration_vjepa`: V-JEPA model configuration.
- `frame_sampling`: which frame numbers make a clip. Pure integer functions of the video's length; nothing here opens a file.
- `linear`: linear layers, with the faster of two libraries for float32 products where PyTorch takes the slower one.
- `modeling_vjepa`: V-JEPA: encoder, predictor, attentive pooler and the models made of them.
- `tubelets`: clip <-> tubelet tokens and the arithmetic of the token grid: pure functions.
- `video_io`: read videos: what a file holds (`probe`) and exactly the frames asked for (`decode`). Only this file has a decoder.
- `video_processing_vjepa`: VJEPAVideoProcessor: from a path, URL, bytes, array or images to the tensors the models read.
"""
