#!/usr/bin/env bash
# What there is to measure on a GPU, in one call of at most ten minutes that installs and downloads nothing.
#
#     benchmarks/gpu_day.sh prepare VIDEOS FOLDER        before, on any machine: pack all inputs, below 60 MiB
#     benchmarks/gpu_day.sh run FOLDER                   on a machine with a GPU, this repository and FOLDER
#     benchmarks/gpu_day.sh rehearse FOLDER [SECONDS]    the same at tiny sizes on a CPU, SECONDS at most for a part
#
# VIDEOS is the folder that studies/real_clips/compare.py reads. With REFERENCE=path/to/jepa, `prepare` also packs
# Meta's code, and the training step is compared with Meta's. PYTHON=path/to/python chooses the interpreter.
#
# Every part has a time limit and writes a result and a log to FOLDER/results. A part that fails or runs out of time
# does not stop the others: results/summary.txt says how each ended, and the exit status is 1 unless all succeeded.
set -euo pipefail

usage() {
    sed -n '4,6s/^# *//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

prepare() { # VIDEOS FOLDER
    mkdir -p "$2/videos"
    "$python" studies/real_clips/pack.py "$1" "$2/clips" --side 150
    # A sixth of the videos as they are, for the loader.
    (cd "$1" && find . -name '*.mp4' | sort | awk 'NR % 6 == 1' | xargs cp --parents --target-directory "$2/videos")
    if [[ -n ${REFERENCE:-} ]]; then git clone --quiet --depth 1 "file://$REFERENCE" "$2/reference"; fi
    git describe --always --dirty --exclude='*' >"$2/commit"
    local mebibytes
    mebibytes=$(($(du -sk "$2" | cut -f 1) / 1024))
    echo "packed $mebibytes MiB in $2"
    ((mebibytes < 60)) || { echo "this is too much: it must be less than 60 MiB" >&2 && exit 1; }
}

part() { # RESULT SECONDS COMMAND...; the result is the last page that the command prints
    local name=$1 limit=$(($2 < deadline - SECONDS ? $2 : deadline - SECONDS)) began=$SECONDS status=0 outcome
    local result=$results/$name log=$results/${name%.*}.log
    shift 2
    if ((limit > 0)); then
        timeout --kill-after 5 "$limit" "$@" >"$result.all" 2>"$log" || status=$?
        awk '/^# / {page = ""} {page = page $0 "\n"} END {printf "%s", page}' "$result.all" >"$result"
        rm "$result.all"
    else
        status=124 limit=0
    fi
    case $status in
        0) outcome="succeeded" ;;
        124 | 137) outcome="STOPPED at its limit of $limit s" ;;
        *) outcome="FAILED with status $status, see $(basename "$log")" ;;
    esac
    echo "$name: $outcome, $((SECONDS - began)) s" | tee -a "$results/summary.txt"
    ((status == 0)) || exit_status=1
}

measure() { # FOLDER SECONDS...; the arrays of options are those of `run_all` or `rehearse`
    results=$1/results
    mkdir -p "$results"
    rm -f "$results"/*
    PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
    VJEPA_COMMIT=$(cat "$1/commit")
    export PYTHONPATH VJEPA_COMMIT HF_HUB_OFFLINE=1
    local compare=("$python" studies/real_clips/compare.py --videos "$1/clips" --runs "$1/runs" --splits 0 "${study[@]}")
    if [[ -d $1/reference ]]; then step+=(--reference "$1/reference"); fi
    part tests.txt "$2" "$python" -m pytest -q tests/test_gpu.py "${tests[@]}"
    part step.md "$3" "$python" benchmarks/step.py "${step[@]}"
    part inference.md "$4" "$python" benchmarks/inference.py clips "${inference[@]}"
    part real_clips.md "$5" "${compare[@]}" --methods untrained vjepa
    part loader.md "$6" "$python" benchmarks/data.py loader --videos "$1/videos" "${loader[@]}"
    # Goes on with the results of real_clips.md in the time that is left.
    part real_clips_videomae.md "$7" "${compare[@]}" --methods untrained vjepa videomae
}

run_all() { # FOLDER
    "$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "PyTorch finds no GPU")'
    deadline=590
    tests=(-m cuda --numprocesses 4)
    step=(--models vit_large --ways "bf16 compiled" --num_clips 24 --num_clips 192 --num_clips 96 --rounds 6)
    inference=(--models ViT-L --num_clips 16 --precisions bf16)
    study=(--image_size 112 --patch_size 16 --num_frames 16 --hidden_size 384 --num_layers 12 --num_heads 6)
    study+=(--batch_size 128 --steps 1000 --mixed_precision bf16 --num_workers 14 --probes 1)
    loader=(--workers 16 --batches 60 --turns 2)
    measure "$1" 90 160 80 190 60 "$deadline"
}

rehearse() { # FOLDER SECONDS
    export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
    deadline=$((3 * $2))
    tests=(-m "not cuda and not slow" --numprocesses 1)
    step=(--models vit_tiny --ways fp32 --num_clips 1 --num_clips 2 --rounds 1)
    step+=(--image_size 32 --num_frames 4 --threads 1)
    inference=(--models ViT-S --num_clips 1 --precisions fp32 --no-compiled --rounds 2)
    inference+=(--image_size 32 --num_frames 4 --threads 1)
    study=(--image_size 16 --patch_size 8 --num_frames 4 --hidden_size 24 --num_layers 2 --num_heads 2)
    study+=(--batch_size 4 --steps 4 --mixed_precision no --num_workers 1 --probes 1)
    study+=(--probe_steps 1 --probe_learning_rates 0.001)
    loader=(--workers 2 --batches 1 --turns 1 --batch_size 2 --num_videos 4)
    measure "$1" "$2" "$2" "$2" "$2" "$2" "$2"
}

python=${PYTHON:-python}
exit_status=0
paths=()
for path in "${@:2:2}"; do paths+=("$(realpath -m "$path")"); done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-} $#" in
    "prepare 3") prepare "${paths[@]}" ;;
    "run 2") run_all "${paths[0]}" ;;
    "rehearse 2" | "rehearse 3") rehearse "${paths[0]}" "${3:-600}" ;;
    *) usage ;;
esac
exit "$exit_status"
