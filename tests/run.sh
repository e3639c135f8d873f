#!/usr/bin/env bash
# Sets up .venv (as launch/setup.sh does) and runs all tests in it; arguments go to pytest.
#
#   bash tests/run.sh
#   bash tests/run.sh tests/setup -k slurm
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
export OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu  # the ranks of a test share the cores; a test on a GPU says so itself
exec .venv/bin/python -m pytest "$@"
