#!/usr/bin/env bash
# Size a trained network, and compare with sizing and training from scratch: six epochs for each network in the end.
# run.sh DATA RUN [PRESET]: DATA holds prepared tensorflow-datasets, RUN is a new folder.
set -euo pipefail
data=$1 run=$2 preset=${3:-cifar10_resnet20}
stage() { # SCRIPT FOLDER SETTINGS...
    local script=$1 folder=$2
    shift 2
    python -m experiments."$script" "$preset" --run "$run/$folder" --data.data-dir "$data" --data.limit 2500 \
        --space.max-multiplier 1 --latency.runtime onnx --latency.networks 60 --accuracy.trainings 0 \
        --supernet.epochs 1 --supernet.batch 64 --supernet.learning-rate 0.4 --supernet.warmup-epochs 0.3 \
        --supernet.recalibration-images 1000 --subnet.batch 64 --subnet.learning-rate 0.4 \
        --subnet.warmup-epochs 0.3 --subnet.label-smoothing 0 --repair.rounds 4 --repair.candidates 2 "$@"
}
shared_table() { mkdir -p "$run/$1" && cp -r "$run/table/latency" "$run/$1/"; }
trained=(--supernet.start "$run/trained/base" --supernet.learning-rate 0.2 --subnet.learning-rate 0.2)

time stage measure_latency table
time stage train_base trained --subnet.epochs 4
for each in sized_trained sized_scratch uniform_scratch uniform_trained; do shared_table $each; done
for budget in 0.5 0.33; do
    at=(--compare.budgets "$budget" --compare.seeds 0)
    time stage compare_methods sized_trained "${trained[@]}" "${at[@]}" --compare.methods rewards \
        --subnet.from-supernet --subnet.epochs 1
    time stage compare_methods uniform_trained "${trained[@]}" "${at[@]}" --compare.methods uniform \
        --subnet.from-start --subnet.epochs 2
    time stage compare_methods uniform_scratch "${at[@]}" --compare.methods uniform --subnet.epochs 6
    time stage compare_methods sized_scratch "${at[@]}" --compare.methods rewards --subnet.epochs 5
    for each in sized_trained sized_scratch uniform_scratch uniform_trained; do
        cp -r "$run/$each/comparison" "$run/$each/comparison_$budget"
    done
done
