"""Scripts to run, read and change: pretrain, probe, fine-tune, classify, detect.

The installed package has them too: `vjepa-hf pretrain`, or `accelerate launch -m vjepa_hf.examples.pretrain`.

- `classify_video`: print the most likely classes of a video
- `detect_actions`: train and test action detection, on AVA or a data set in its file format
- `draw_predictions`: draw what a pretrained model predicts in hidden parts of a clip
- `finetune`: fine-tune an encoder, or adapters in it, with an unmodified `Trainer`
- `make_toy_actions`: write the toy set with boxes, in AVA's file format
- `make_toy_videos`: write the toy set: small H.264 files with an appearance label and a motion label
- `pretrain`: the pretraining loop
- `probe`: train an attentive probe on frozen features, and test it

The folder `space` is a Gradio Space, which `vjepa-hf demo` starts, `configs` has the YAML files of pretraining runs,
`accelerate` those of the launcher, and `slurm` a batch script.
"""
