"""The model: exactly the files that a Hub repository carries. They import nothing else of this package.

- `checks`: errors about wrong arguments, clips, masks, labels, boxes and weights
- `configuration_vjepa`: VJEPAConfig, every size and switch of a model, checked
- `frame_sampling`: which frames of a video make a clip
- `modeling_vjepa`: encoder, predictor, attentive pooler and the models made of them
- `names`: names from files in messages, as text that is safe to print
- `objective`: targets of pretraining, and the loss on context tokens of V-JEPA 2.1
- `rotary`: rotary position embeddings of V-JEPA 2 and 2.1
- `tubelets`: clips to tubelet tokens, the token grid and its position embeddings
- `video_inputs`: what a video is: files, rows, folders of images, frames in memory
- `video_io`: what a video file holds, and exactly the frames asked for
- `video_processing_vjepa`: VJEPAVideoProcessor, from a path, URL, array or image to tensors
- `video_sources`: what is opened, and what is refused: local files, addresses, bytes and file objects
"""
