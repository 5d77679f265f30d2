#!/usr/bin/env bash
# Size a trained network, and compare with sizing and training from scratch: twelve epochs for each network in the end, or
# the four that are left where the trained network was there before.
# [BUDGETS="0.5 0.33"] run.sh DATA RUN PRESET [SETTINGS]: DATA holds prepared tensorflow-datasets, RUN is a new folder.
set -euo pipefail
data=$1 run=$2 preset=$3
settings=("${@:4}")
stage() { # SCRIPT FOLDER SETTINGS...
    local script=$1 folder=$2
    shift 2
    SECONDS=0
    python -m experiments."$script" "$preset" --run "$run/$folder" --data.data-dir "$data" --data.limit 5000 \
        --space.max-multiplier 1 --latency.runtime onnx --latency.networks 100 --accuracy.trainings 0 \
        --supernet.epochs 2 --supernet.batch 64 --supernet.learning-rate 0.4 --supernet.warmup-epochs 0.5 \
        --supernet.recalibration-images 1000 --subnet.batch 64 --subnet.learning-rate 0.4 \
        --subnet.warmup-epochs 0.5 --subnet.label-smoothing 0 --repair.rounds 4 --repair.candidates 2 \
        "${settings[@]}" "$@"
    echo "$SECONDS s: $script $folder"
}
trained=(--supernet.start "$run/trained/base" --supernet.learning-rate 0.2 --subnet.learning-rate 0.2)

stage measure_latency table
stage train_base trained --subnet.epochs 8
ways=(sized_trained uniform_trained sized_scratch uniform_scratch sized_scratch_4 uniform_scratch_4)
for each in "${ways[@]}"; do
    mkdir -p "$run/$each"
    cp -r "$run/table/latency" "$run/$each/"
done
for budget in ${BUDGETS:-0.5 0.33}; do
    at=(--compare.budgets "$budget" --compare.seeds 0 1)
    stage compare_methods sized_trained "${trained[@]}" "${at[@]}" --compare.methods rewards \
        --subnet.from-supernet --subnet.epochs 2
    stage compare_methods uniform_trained "${trained[@]}" "${at[@]}" --compare.methods uniform \
        --subnet.from-start --subnet.epochs 4
    stage compare_methods uniform_scratch "${at[@]}" --compare.methods uniform --subnet.epochs 12
    stage compare_methods sized_scratch "${at[@]}" --compare.methods rewards --subnet.epochs 10
    [[ -d $run/sized_scratch_4/supernet ]] || cp -r "$run/sized_scratch/supernet" "$run/sized_scratch_4/"
    stage compare_methods sized_scratch_4 "${at[@]}" --compare.methods rewards --subnet.epochs 2
    stage compare_methods uniform_scratch_4 "${at[@]}" --compare.methods uniform --subnet.epochs 4
    for each in "${ways[@]}"; do
        cp -rT "$run/$each/comparison" "$run/$each/comparison_$budget"
    done
done
