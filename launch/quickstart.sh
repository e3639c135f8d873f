#!/usr/bin/env bash
# From a fresh clone to a trained model and a text of its own: sets up .venv, trains the recipe `quickstart` through
# the deepspeed launcher (2 CPU ranks, or all GPUs), generates a sample. Called again, it uses what is there.
#
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh run.steps=100      # arguments go to the training, as with `dstrain train quickstart`
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh

run_name=quickstart
run_dir=runs
for argument in "$@"; do
    case $argument in
        run.name=*) run_name=${argument#run.name=} ;;
        run.dir=*) run_dir=${argument#run.dir=} ;;
    esac
done
run_folder=$run_dir/$run_name

bash launch/local.sh quickstart "$@"

echo
echo "A sample (dstrain generate $run_folder ...):"
.venv/bin/dstrain generate "$run_folder" --prompt "def " --max-new-tokens 120 --temperature 0.7
echo
echo "The run folder:   $run_folder  (metrics.jsonl, checkpoints/, recipe.yaml; training again goes on from there)"
echo "TensorBoard:      .venv/bin/tensorboard --logdir $run_dir"
echo "More recipes:     .venv/bin/dstrain recipes"
