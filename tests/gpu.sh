#!/usr/bin/env bash
# Shows, within 10 minutes on one GPU, every claim that only a GPU can show, and writes one JSON file.
#
#   bash tests/gpu.sh [gpu.json]                       everything, on the first GPU
#   bash tests/gpu.sh --only attention,fp16 some.json  some checks; `--list` names them all
#   bash tests/gpu.sh --rehearse rehearsal.json        on a CPU, in small, in about 2 minutes: tries the script itself
#   PYTHON=python3 bash tests/gpu.sh                   with another Python than .venv's; nothing is installed
#
# Exit: 0 all passed, 1 a check failed, 2 no GPU, a missing package or a wrong call (one line says which).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if ! command -v "$python" > /dev/null; then
    echo "$python is not there: run bash launch/setup.sh first, or name a Python with PYTHON=..." >&2
    exit 2
fi
exec "$python" "$root/tests/gpu/all_checks.py" "$@"
